"""Models with several inputs or with text inputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from model_server.errors import StartError
from model_server.model.columns_spec import ColumnsSpec
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.model.rows import InvalidRowsError
from tests.support.classifiers import Shape, model, save
from tests.support.pipelines import LABELS, PASSENGER, sums, text_classifier, titanic, tokens

FLOAT = TensorProto.FLOAT


def load(made: ModelProto, directory: Path) -> Predictor:
    path, _ = save(made, directory, LABELS)
    return Predictor(ModelFile.read(path), None)


def columns_of(made: Predictor) -> ColumnsSpec:
    assert isinstance(made.spec, ColumnsSpec)
    return made.spec


def added(batch: Shape, properties: dict[str, str] | None = None) -> ModelProto:
    """Return a model that computes the softmax of the sum of two inputs with this batch dimension."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Softmax", ["sum"], ["p"], axis=1)]
    first, second = batch
    inputs: dict[str, tuple[int, Shape | None]] = {"a": (FLOAT, [first, 2]), "b": (FLOAT, [second, 1])}
    return model(nodes, inputs, {"p": (FLOAT, [first, 2])}, properties=properties)


@pytest.mark.parametrize("batch", [("N", "N"), ("N", "M"), (2, 2), (2, "N"), (1, 1)], ids=str)
def test_any_number_of_rows_with_a_dynamic_or_fixed_batch(tmp_path: Path, batch: Shape) -> None:
    predictor = load(added(batch), tmp_path)
    for count in (1, 2, 5):
        rows = [{"a": [row, 2 * row], "b": 1} for row in range(count)]
        sums_of_rows = np.array([[row, 2 * row] for row in range(count)], np.float64)
        expected = np.exp(sums_of_rows) / np.exp(sums_of_rows).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(predictor.predict(columns_of(predictor).rows(rows)), expected, atol=1e-6)


@pytest.mark.parametrize("sample", [[{"b": 5.5, "a": [1, 2]}], [[[1, 2], 5.5]]])
def test_the_sample_of_the_file_may_have_either_form(tmp_path: Path, sample: Any) -> None:
    predictor = load(added(("N", "N"), {"data_sample": json.dumps(sample)}), tmp_path)
    assert predictor.signature.inputs.as_json(predictor.sample) == [{"a": [1.0, 2.0], "b": 5.5}]


def test_a_sample_that_is_not_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match=r'property "data_sample" that is not a row of the model: rows\[0\]\.b is missing'
    ) as refused:
        load(added(("N", "N"), {"data_sample": '[{"a": [1, 2]}]'}), tmp_path)
    assert 'an object with "a", "b", or a list of 2 values' in refused.value.fix


def test_a_dynamic_width_is_taken_from_the_sample(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Softmax", ["sum"], ["p"], axis=1)]
    form: tuple[int, Shape] = (FLOAT, ["N", None])
    inputs: dict[str, tuple[int, Shape | None]] = {"a": form, "b": (FLOAT, ["N", 1])}
    with pytest.raises(StartError, match='does not declare how many numbers a row has in its input "a"'):
        load(model(nodes, inputs, {"p": form}), tmp_path)
    properties = {"data_sample": '[{"a": [1, 2, 3], "b": 0}]'}
    spec = columns_of(load(model(nodes, inputs, {"p": form}, properties=properties), tmp_path))
    assert spec.inputs["a"].row_shape == (3,)


def test_synthetic_rows_have_the_categories_of_the_file(tmp_path: Path) -> None:
    predictor = load(titanic("error"), tmp_path)
    [sample] = predictor.signature.inputs.as_json(predictor.sample)
    assert (sample["sex"], sample["port"]) == ("female", "Cherbourg")
    spec = columns_of(predictor)
    unknown = spec.rows([PASSENGER, {**PASSENGER, "sex": "x" * 100}])
    with pytest.raises(
        InvalidRowsError, match=r"rows\[1\]\.sex is 'x{39}, which the model does not support; expected 'fem"
    ):
        predictor.predict(unknown)


def test_categories_of_another_type_are_ignored(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["number"], ["text"], to=TensorProto.STRING),
        helper.make_node(
            "OneHotEncoder", ["text"], ["p"], domain="ai.onnx.ml", cats_strings=["0", "1", "red"], zeros=1
        ),
        helper.make_node("Flatten", ["p"], ["flat"]),
    ]
    predictor = load(model(nodes, {"number": (TensorProto.INT64, ["N", 1])}, {"flat": (FLOAT, ["N", 3])}), tmp_path)
    assert predictor.signature.inputs.categories == {}
    assert predictor.signature.inputs.as_json(predictor.sample) == [[0]]


def test_dimensions_with_the_same_name_must_have_the_same_length(tmp_path: Path) -> None:
    spec = columns_of(load(tokens(), tmp_path))
    assert spec.is_dynamic
    assert spec.shared_dimensions == [[("input_ids", 0), ("attention_mask", 0)]]
    assert not columns_of(load(sums(), tmp_path)).is_dynamic


@pytest.mark.parametrize("width", [None, 1])
def test_one_string_per_row(tmp_path: Path, width: int | None) -> None:
    predictor = load(text_classifier(width=width), tmp_path)
    [sample] = predictor.signature.inputs.as_json(predictor.sample)
    assert sample == ("text" if width is None else ["text"])
    assert predictor.spec.is_text


def test_in_process_text_must_be_valid_unicode(tmp_path: Path) -> None:
    predictor = load(text_classifier(), tmp_path)
    with pytest.raises(InvalidRowsError, match=r"rows\[0\]\[0\] contains a lone surrogate"):
        predictor.spec.rows([["\udc00"]])
