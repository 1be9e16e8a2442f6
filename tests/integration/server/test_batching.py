"""Requests that arrive together: each gets the answer that its rows get alone."""

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.processes import IRIS, ONE_PROCESS, Server, events, serving
from tests.support.wire import answer, connect, request

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
CONNECTIONS = 32
REQUESTS = 20


async def ask_together(server: Server, requests: list[list[Any]]) -> list[Any]:
    """Return the status and body of the answers, from several connections at once."""
    slots = asyncio.Semaphore(CONNECTIONS)  # httpx's own limit takes time that grows with the square of the requests
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

        async def ask(rows: list[Any]) -> tuple[int, Any]:
            async with slots:
                answer = await client.post("/predict", json={"data": rows})
            return answer.status_code, answer.json()

        return list(await asyncio.gather(*map(ask, requests)))


@pytest.mark.parametrize("batching", ["auto", "off"])
def test_answers_under_load_are_those_of_single_requests(tmp_path: Path, batching: str) -> None:
    chance = np.random.default_rng(0)
    model = Model.load(Settings.read(IRIS))
    requests = []
    for index in range(CONNECTIONS * REQUESTS):
        rows = chance.uniform(0, 8, (1 + index % 3, 4)).round(1).tolist()
        requests.append([[*rows[0][:3], None]] if index % 50 == 0 else rows)
    with serving(tmp_path, {**IRIS, "BATCHING": batching}, command=ONE_PROCESS) as server:
        answers = asyncio.run(ask_together(server, requests))

    for rows, (status, body) in zip(requests, answers, strict=True):
        if None in rows[0]:
            assert status == 400
            assert body["detail"].startswith("data[0][3] is null; expected a number")
            continue
        expected = model.predict(np.array(rows, np.float32)).tolist()
        assert (status, body) == (200, {"prediction": expected if len(expected) > 1 else expected[0]})


@pytest.mark.parametrize(("batching", "reason"), [("auto", "a row gets"), ("off", "BATCHING is off")])
def test_requests_of_one_turn_share_an_inference(tmp_path: Path, batching: str, reason: str) -> None:
    with serving(tmp_path, {**IRIS, "BATCHING": batching}, command=ONE_PROCESS) as server, ExitStack() as opened:
        connections = [opened.enter_context(connect(server)) for _ in range(8)]
        for connection in connections:  # accepted, and known to the event loop
            connection.sendall(LIVEZ)
            assert answer(connection).status == 200
        server.process.send_signal(signal.SIGSTOP)
        for connection in connections:
            connection.sendall(request())
        server.process.send_signal(signal.SIGCONT)
        assert {answer(connection).status for connection in connections} == {200}
        inferences = server.metric("model_server_inference_rows_count")
        assert inferences == 8 if batching == "off" else inferences < 4
        assert server.metric("model_server_rows_total") == 8
        [about] = [event for event in events(server.log) if event["event"] == "serving"]
        assert about["batching"].startswith(reason)
