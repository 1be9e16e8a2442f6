"""Requests that arrive together: each gets the answer that its rows get alone."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.processes import IRIS, ONE_PROCESS, Server, events, serving

CONNECTIONS = 32
REQUESTS = 20


async def ask_together(server: Server, requests: list[list[Any]]) -> list[Any]:
    """Return the status and body of the answers, from several connections at once."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=30) as client:
        answers = await asyncio.gather(*(client.post("/predict", json={"data": rows}) for rows in requests))
    return [(answer.status_code, answer.json()) for answer in answers]


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
        count = server.metric("model_server_inference_rows_count")
        [about] = [event for event in events(server.log) if event["event"] == "serving"]

    valid = 0
    for rows, (status, body) in zip(requests, answers, strict=True):
        if None in rows[0]:
            assert status == 400
            assert body["detail"].startswith("data[0][3] is null; expected a number")
            continue
        valid += 1
        expected = model.predict(np.array(rows, np.float32)).tolist()
        assert (status, body) == (200, {"prediction": expected if len(expected) > 1 else expected[0]})
    assert count == valid if batching == "off" else count < valid
    assert about["batching"] == ("BATCHING is off" if batching == "off" else model.batching.reason)
