"""Predictors of many kinds of ONNX classifiers, with real inference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.model.row_spec import RowSpec
from model_server.model.rows import InvalidRowsError
from tests.support.classifiers import classifier, expected, model, save

NUMERIC_TYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
}


def load(directory: Path, labels: list[str] | None = None, **kind: Any) -> Predictor:
    names = labels or [f"class {index}" for index in range(kind.get("classes", 3))]
    model_path, _ = save(classifier(**kind), directory, names)
    return Predictor(ModelFile.read(model_path), names)


def spec_of(made: Predictor) -> RowSpec:
    assert isinstance(made.spec, RowSpec)
    return made.spec


def some_rows(made: Predictor, count: int, free: int = 5) -> Any:
    spec = spec_of(made)
    shape = (count, *(length or free for length in spec.row_shape))
    return np.random.default_rng(1).integers(0, 2, shape).astype(spec.dtype)


@pytest.mark.parametrize("dtype", NUMERIC_TYPES)
def test_takes_any_numeric_type(tmp_path: Path, dtype: str) -> None:
    made = load(tmp_path, input_type=NUMERIC_TYPES[dtype])
    assert spec_of(made).dtype == np.dtype(dtype)
    rows = some_rows(made, 7)
    np.testing.assert_allclose(made.predict(rows), expected(rows), atol=1e-6)


@pytest.mark.parametrize("row_shape", [(), (4,), (784,), (5, 3), (3, 8, 8), (2, 3, 4, 5)])
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_takes_any_rank_with_a_dynamic_or_fixed_batch(
    tmp_path: Path, row_shape: tuple[int, ...], batch: int | str
) -> None:
    made = load(tmp_path, row_shape=row_shape, batch=batch)
    assert spec_of(made).row_shape == row_shape
    for count in (1, 2, 4, 9):
        rows = some_rows(made, count)
        np.testing.assert_allclose(made.predict(rows), expected(rows), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"output_name": "x"},
        {"label_output": True},
        {"label_output": True, "label_last": True},
        {"zip_map": True},
        {"zip_map": True, "label_output": True},
        {"output_type": TensorProto.FLOAT16},
        {"output_type": TensorProto.DOUBLE},
        {"trailing": (1, 1)},
    ],
    ids=str,
)
def test_finds_the_probabilities(tmp_path: Path, form: dict[str, Any], classes: int) -> None:
    made = load(tmp_path, classes=classes, **form)
    rows = some_rows(made, 6)
    tolerance = 1e-3 if form.get("output_type") == TensorProto.FLOAT16 else 1e-6
    np.testing.assert_allclose(made.predict(rows), expected(rows, classes), atol=tolerance)


def test_string_classes_are_put_in_the_order_of_the_labels(tmp_path: Path) -> None:
    names = ["zebra", "ant", "mole"]
    made = load(tmp_path, names, zip_map=True, names=names)
    rows = some_rows(made, 6)
    np.testing.assert_allclose(made.predict(rows), expected(rows), atol=1e-6)


def test_integer_classes_need_not_start_at_zero(tmp_path: Path) -> None:
    made = load(tmp_path, zip_map=True, names=[-1, 10, 20])
    rows = some_rows(made, 6)
    np.testing.assert_allclose(made.predict(rows), expected(rows), atol=1e-6)


def test_dynamic_dimensions_take_any_length(tmp_path: Path) -> None:
    made = load(tmp_path, row_shape=("height", "width"))
    assert spec_of(made).row_shape == (None, None)
    for free in (1, 2, 9):
        rows = some_rows(made, 3, free)
        np.testing.assert_allclose(made.predict(rows), expected(rows, averaged=True), atol=1e-6)


def test_an_unsupported_length_of_a_dynamic_dimension_is_refused(tmp_path: Path) -> None:
    weights: dict[str, Any] = {"shape": np.array([0, 4], np.int64), "weights": np.eye(4, 3, dtype=np.float32)}
    nodes = [
        helper.make_node("Reshape", ["rows", "shape"], ["square"]),
        helper.make_node("MatMul", ["square", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"]),
    ]
    made = model(
        nodes,
        {"rows": (TensorProto.FLOAT, ["N", "height", "width"])},
        {"p": (TensorProto.FLOAT, ["N", 3])},
        weights,
        {"data_sample": "[[[1, 2], [3, 4]]]"},
    )
    path, _ = save(made, tmp_path, ["a", "b", "c"])
    loaded = Predictor(ModelFile.read(path), ["a", "b", "c"])
    assert loaded.predict(np.ones((2, 1, 4), np.float32)).shape == (2, 3)
    with pytest.raises(InvalidRowsError, match=r"has rows of shape \(2, 3\); the model does not accept this length"):
        loaded.predict(np.ones((2, 2, 3), np.float32))


@pytest.mark.parametrize("before", [1, 200])
def test_a_row_without_a_finite_answer_is_refused(tmp_path: Path, before: int) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["rows", "axes"], ["sums"], keepdims=1),
        helper.make_node("Div", ["rows", "sums"], ["p"]),
    ]
    made = model(
        nodes,
        {"rows": (TensorProto.FLOAT, ["N", 3])},
        {"p": (TensorProto.FLOAT, ["N", 3])},
        {"axes": np.array([1], np.int64)},
    )
    path, _ = save(made, tmp_path, ["a", "b", "c"])
    rows = np.array([[1, 1, 1]] * before + [[0, 0, 0], [1, 1, 1]], np.float32)
    with pytest.raises(InvalidRowsError, match=rf"rows\[{before}\] has no finite answer"):
        Predictor(ModelFile.read(path), ["a", "b", "c"]).predict(rows)
