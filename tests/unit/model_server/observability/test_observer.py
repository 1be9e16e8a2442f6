"""Which requests are logged, and under which name."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_server.observability.log import Log
from model_server.observability.metrics import Telemetry, reason_of
from model_server.observability.observer import Observer


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Callable[[float, list[int]], list[dict[str, Any]]]]:
    """What is logged at a sample rate of answers with these statuses."""
    path = tmp_path / "log"
    with path.open("wb") as file:

        def observe(rate: float, statuses: list[int]) -> list[dict[str, Any]]:
            observer = Observer(Telemetry("name", "version", {}), Log(file.fileno()), ("/predict",), rate)
            for number, status in enumerate(statuses):
                headers = [(b"x-request-id", b"%d" % number)]
                scope = {"path": f"/{'predict' if number % 2 == 0 else number}", "method": "POST", "headers": headers}
                observer.observe(scope, status, 0.0123456789, reason_of(status))
            return [json.loads(line) for line in path.read_text().splitlines()]

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
    assert {line["seconds"] for line in lines} == {0.012346}


@pytest.mark.parametrize(("rate", "logged"), [(0, []), (0.1, [9, 19, 29]), (0.75, None), (1, list(range(30)))])
def test_successes_are_sampled_evenly(
    observed: Callable[[float, list[int]], list[dict[str, Any]]], rate: float, logged: list[int] | None
) -> None:
    lines = observed(rate, [200] * 30)
    assert {line["level"] for line in lines} <= {"info"}
    assert len(lines) == int(rate * 30)
    if logged is not None:
        assert [int(line["request_id"]) for line in lines] == logged
