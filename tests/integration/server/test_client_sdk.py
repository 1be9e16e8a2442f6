"""The BentoML client SDK against the real server, and the service called in the same process.

Each script runs in its own process, as a user's would: BentoML's client emits many warnings.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.processes import IRIS, ROOT, Server, interpreter, service_environment

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]

SYNCHRONOUS = """
import bentoml

with bentoml.SyncHTTPClient(url) as client:
    print(json.dumps(client.predict(data=rows[:1])))
    print(json.dumps(client.predict(data=rows)))
    print(json.dumps(client.predict_label(data=rows[:1])))
    print(json.dumps(client.predict_label(data=rows)))
    print(client.request("GET", "/health").text)
    try:
        client.predict(data=[[1]])
    except bentoml.exceptions.InvalidArgument as error:
        print(error)
"""

ASYNCHRONOUS = """
import asyncio
import bentoml

async def call():
    async with bentoml.AsyncHTTPClient(url) as client:
        print(json.dumps(await client.predict(data=rows[:1])))
        print(json.dumps(await client.predict(data=rows)))
        print(json.dumps(await client.predict_label(data=rows[:1])))
        print(json.dumps(await client.predict_label(data=rows)))
        print((await client.request("GET", "/health")).text)
        try:
            await client.predict(data=[[1]])
        except bentoml.exceptions.InvalidArgument as error:
            print(error)

asyncio.run(call())
"""

IN_PROCESS = """
import bentoml
from service import ModelLoadServer

service = ModelLoadServer()
answers = []
for rows in batches:
    for method in (service.predict, service.predict_label):
        try:
            answers.append([row if isinstance(row, str) else row.tolist() for row in method(rows)])
        except bentoml.exceptions.InvalidArgument as error:
            answers.append({"detail": str(error)})
print(json.dumps(answers))
"""
# Few rows and many rows are parsed and encoded by different code.
BATCHES: list[list[list[Any]]] = [
    ROWS[:1],
    ROWS,
    ROWS * 50,
    [[number / 7, 1, -0.0, 1e-3] for number in range(1000)],
    [[1]],
    [],
    [*ROWS * 50, [1, 2, 3]],
    [*ROWS * 50, [1, 2, 3, "4"]],
    [*ROWS * 50, [1, 2, 3, True]],
    [*ROWS * 50, [1, 2, 3, 1e39]],
]


def run(script: str, url: str, home: Path) -> list[str]:
    called = subprocess.run(
        [interpreter("service"), "-c", f"import json\nurl = {url!r}\nrows = {ROWS!r}\n{script}"],
        env=service_environment(home, {**IRIS, "PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        check=True,
    )
    return called.stdout.splitlines()


def predictions(server: Server) -> list[object]:
    routes = ("/predict", "/predict/label")
    return [{"prediction": server.predict(rows, route)} for route in routes for rows in (ROWS[:1], ROWS)]


def test_synchronous_client(iris: Server, tmp_path: Path) -> None:
    *answers, health, refusal = run(SYNCHRONOUS, iris.url, tmp_path)
    assert [json.loads(answer) for answer in answers] == predictions(iris)
    assert json.loads(health) == {"health": "ok"}
    assert json.loads(refusal) == {"detail": "data[0] has length 1; expected 4 numbers."}


def test_asynchronous_client(iris: Server, tmp_path: Path) -> None:
    *answers, health, refusal = run(ASYNCHRONOUS, iris.url, tmp_path)
    assert [json.loads(answer) for answer in answers] == predictions(iris)
    assert json.loads(health) == {"health": "ok"}
    assert json.loads(refusal) == {"detail": "data[0] has length 1; expected 4 numbers."}


def test_calls_in_the_process_return_the_same_answers(iris: Server, tmp_path: Path) -> None:
    [answers] = run(f"batches = {BATCHES!r}\n{IN_PROCESS}", iris.url, tmp_path)
    over_http = [
        (len(rows), iris.client.post(route, json={"data": rows}).json())
        for rows in BATCHES
        for route in ("/predict", "/predict/label")
    ]
    one_each = [
        body if "detail" in body else [body["prediction"]] if count == 1 else body["prediction"]
        for count, body in over_http
    ]
    assert json.loads(answers) == one_each
    assert sum("detail" in body for _, body in over_http) == 12
