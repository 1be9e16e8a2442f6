"""Lines of the prediction log: bounded in size, and dropped when the output has no room."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_server.http.prediction_log import PredictionLog
from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec
from model_server.observability.log import Log
from model_server.observability.metrics import Metrics
from model_server.observability.observer import Observer
from model_server.protocols.open_inference import Ask, Outputs

NUMBER = RowSpec(np.dtype(np.float32), ())
TEXT = RowSpec(np.dtype(object), ())
Observe = Callable[..., dict[str, Any]]


@pytest.fixture
def observe(tmp_path: Path) -> Observe:
    """Return a function that logs rows and answers, and returns the line."""
    path = tmp_path / "log"

    def log_one(spec: Any, rows: Any, answers: Any, ask: object = None) -> dict[str, Any]:
        with path.open("wb") as file:
            log = Log(file.fileno())
            PredictionLog(log, 1).observe(
                Observer(Metrics("name", "version"), log, 0).begin(), spec.as_json, rows, answers, ask
            )
        [line] = path.read_text().splitlines()
        assert len(line.encode()) < 16 << 10
        found: dict[str, Any] = json.loads(line)
        assert found["rows"] == len(rows)
        return found

    return log_one


def test_rows_are_objects_if_the_model_has_several_inputs(observe: Observe) -> None:
    spec = ColumnsSpec({"age": NUMBER, "port": TEXT})
    rows = [{"age": 1.1, "port": "Cherbourg"}, {"age": 2, "port": "Queens\u2028town"}]
    line = observe(spec, spec.rows(rows), ["yes", "no"])
    assert line["inputs"] == rows
    assert line["answers"] == ["yes", "no"]


def test_answers_are_objects_in_a_protocol_with_several_outputs(observe: Observe) -> None:
    answers = Outputs({"probabilities": np.array([[0.25, 0.75]], np.float32), "label": ["b"]}, 1)
    line = observe(TEXT, TEXT.rows(["text"]), answers)
    assert (line["inputs"], line["answers"]) == (["text"], [{"probabilities": [0.25, 0.75], "label": "b"}])
    line = observe(TEXT, TEXT.rows(["text"]), answers, Ask("id", (), ("label",)))  # others asked for the rest
    assert line["answers"] == [{"label": "b"}]


@pytest.mark.parametrize("text", ["x" * 16_000, "\u2028" * 3_000, "\U000e0001" * 2_000, "\n" * 8_000, "\u3042" * 6_000])
def test_rows_that_do_not_fit_are_left_out(observe: Observe, text: str) -> None:
    line = observe(TEXT, TEXT.rows(["short", text, "short"]), np.zeros(3))
    assert (line["inputs"], line["answers"]) == (["short"], [0])


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_large_rows_are_left_out(observe: Observe, size: int) -> None:
    rows = np.random.default_rng(0).random((2, size))
    assert observe(RowSpec(np.dtype(np.float64), (size,)), rows, np.zeros(2))["inputs"] == []
    assert observe(NUMBER, NUMBER.rows([1, 2]), rows)["answers"] == []


def test_lines_without_room_are_dropped_and_counted() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log = Log(writer)
    predictions = PredictionLog(log, 1)
    metrics = Metrics("name", "version")
    metrics.register(predictions)
    request = Observer(metrics, log, 0).begin()
    for _ in range(100):  # more than a pipe holds
        predictions.observe(request, NUMBER.as_json, NUMBER.rows([1] * 2000), np.zeros(2000))
    dropped = re.search(
        r"^model_server_prediction_log_dropped_total (.*)$", metrics.exposition().decode(), re.MULTILINE
    )
    assert dropped
    assert 50 < float(dropped[1]) < 100
    os.close(reader)
    os.close(writer)


def test_an_answer_that_is_not_json_is_dropped() -> None:
    with Path(os.devnull).open("wb") as file:
        log = Log(file.fileno())
        predictions = PredictionLog(log, 1)
        request = Observer(Metrics("name", "version"), log, 0).begin()
        predictions.observe(request, NUMBER.as_json, NUMBER.rows([1]), [1 << 70])
        [metric] = predictions.collect()
    assert [sample.value for sample in metric.samples] == [1]
