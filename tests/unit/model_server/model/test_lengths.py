"""The measured maximum length of rows with dynamic dimensions."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from model_server.model import lengths
from model_server.model.lengths import measure_max_row_length
from model_server.model.model import Model
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.model.rows import InvalidRowsError
from model_server.model.session import Stop, StoppedError, current_stop
from model_server.settings import Settings
from tests.support.classifiers import Array, classifier, endless, model, save
from tests.support.pipelines import LABELS, tokens


def load(made: ModelProto, directory: Path) -> Predictor:
    path, _ = save(made, directory, LABELS)
    return Predictor(ModelFile.read(path), None)


def with_positions(count: int) -> ModelProto:
    """Return a model whose rows have at most `count` values, like models with learned position embeddings."""
    weights: dict[str, Array] = {
        "positions": np.ones((count, 2), np.float32),
        "axis": np.array([1], np.int64),
        "zero": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["rows"], ["length"], start=1),
        helper.make_node("Squeeze", ["length", "zero"], ["scalar"]),
        helper.make_node("Range", ["start", "scalar", "step"], ["indices"]),
        helper.make_node("Gather", ["positions", "indices"], ["chosen"]),
        helper.make_node("Cast", ["rows"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "chosen"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=1),
    ]
    weights |= {"start": np.array(0, np.int64), "step": np.array(1, np.int64)}
    return model(nodes, {"rows": (TensorProto.INT64, ["N", "length"])}, {"p": (TensorProto.FLOAT, ["N", 2])}, weights)


def test_length_doubles_until_an_inference_takes_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load(tokens(), tmp_path)
    monkeypatch.setattr(lengths, "_MAX_SECONDS", 0.01)
    longest = measure_max_row_length(predictor)
    assert longest
    assert 16 <= longest <= 8192
    assert longest & (longest - 1) == 0
    predictor.limit_lengths(longest)
    row = [[[1] * (longest + 1)] * 2]
    with pytest.raises(InvalidRowsError, match=rf"expected at most {longest} numbers \(MAX_ROW_LENGTH\)"):
        predictor.spec.rows(row)


def test_length_ends_at_the_position_embeddings(tmp_path: Path) -> None:
    assert measure_max_row_length(load(with_positions(384), tmp_path)) == 384


def test_a_model_that_refuses_longer_rows_has_no_limit(tmp_path: Path) -> None:
    assert measure_max_row_length(load(with_positions(1), tmp_path)) is None


def test_length_is_limited_by_the_body_size(tmp_path: Path) -> None:
    assert measure_max_row_length(load(classifier(row_shape=("height", "width")), tmp_path)) == 2048


def test_the_setting_overrides_the_measurement(tmp_path: Path) -> None:
    model_path, label_path = save(tokens(), tmp_path, LABELS)
    variables = {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path), "MAX_ROW_LENGTH": "3"}
    served = Model.load(Settings.read(variables))
    assert len(served.predict(served.spec.rows([[[1, 2, 3], [1, 1, 1]]]))) == 1
    with pytest.raises(InvalidRowsError, match="expected at most 3"):
        served.spec.rows([[[1, 2, 3, 4], [1, 1, 1, 1]]])


def test_rows_run_in_chunks_until_they_are_stopped(tmp_path: Path) -> None:
    predictor = load(tokens(), tmp_path)
    rows: Any = predictor.spec.rows([[[word % 50] * 9, [1] * 9] for word in range(100)])
    whole = predictor.predict(rows)
    stop = Stop()
    token = current_stop.set(stop)
    try:
        np.testing.assert_allclose(predictor.predict(rows), whole, atol=1e-6)
        stop.set()
        with pytest.raises(StoppedError):
            predictor.predict(rows)
    finally:
        current_stop.reset(token)


def test_an_endless_inference_can_be_stopped(tmp_path: Path) -> None:
    """ONNX Runtime checks the run options before each operator."""
    path, _ = save(endless(), tmp_path, LABELS)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    stop = Stop()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Exception, match="terminate"):
        session.run(None, {"rows": np.zeros((1, 3), np.float32)}, stop.options())
    with pytest.raises(StoppedError):
        stop.options()
