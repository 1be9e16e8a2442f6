"""Which requests are logged, with which fields."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_server.observability.log import Log
from model_server.observability.metrics import Metrics
from model_server.observability.observer import Observer


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Callable[[float, list[int]], list[dict[str, Any]]]]:
    """Return a function that gives the log lines for a sample rate and the statuses of some answers."""
    log_path = tmp_path / "log"
    with log_path.open("wb") as file:

        def observe(rate: float, statuses: list[int]) -> list[dict[str, Any]]:
            observer = Observer(Metrics("name", "version"), Log(file.fileno()), rate)
            observer.routes = {"/predict": "/predict"}
            for number, status in enumerate(statuses):
                path = f"/{'predict' if number % 2 == 0 else number}"
                request = observer.begin("POST", path, {b"x-request-id": b"%d" % number})
                request.code = "busy" if status == 503 else ""
                observer.observe(request, status)
            return [json.loads(line) for line in log_path.read_text().splitlines()]

        yield observe


def test_errors_are_always_logged(observed: Callable[[float, list[int]], list[dict[str, Any]]]) -> None:
    lines = observed(0, [200, 400, 304, 499, 500, 503])
    assert [(line["level"], line["status"], line["route"], line["request_id"]) for line in lines] == [
        ("warning", 400, "other", "1"),
        ("warning", 499, "other", "3"),
        ("error", 500, "/predict", "4"),
        ("error", 503, "other", "5"),
    ]
    assert [line.get("reason") for line in lines] == ["invalid", None, None, "busy"]
    assert [line.get("code") for line in lines] == [None, None, None, "busy"]
    assert all(0 <= line["seconds"] < 10 for line in lines)


@pytest.mark.parametrize(("rate", "logged"), [(0, []), (0.1, [9, 19, 29]), (0.75, None), (1, list(range(30)))])
def test_successes_are_sampled_evenly(
    observed: Callable[[float, list[int]], list[dict[str, Any]]], rate: float, logged: list[int] | None
) -> None:
    lines = observed(rate, [200] * 30)
    assert {line["level"] for line in lines} <= {"info"}
    assert len(lines) == int(rate * 30)
    if logged is not None:
        assert [int(line["request_id"]) for line in lines] == logged
