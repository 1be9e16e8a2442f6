"""Files that cannot be served are refused with an error that names the problem."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from model_server.errors import StartError
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.model.row_spec import RowSpec
from tests.support.classifiers import classifier, model, save

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
LABELS = ["a", "b", "c"]


def of_one_node(
    kind: str, inputs: dict[str, list[int | str]], output: list[int | str], **attributes: Any
) -> ModelProto:
    return model(
        [helper.make_node(kind, list(inputs), ["answer"], **attributes)],
        {name: (FLOAT, shape) for name, shape in inputs.items()},
        {"answer": (FLOAT, output)},
    )


def twice_the_same_probabilities() -> ModelProto:
    softmax = helper.make_node("Softmax", ["rows"], ["first"], axis=1)
    copy = helper.make_node("Identity", ["first"], ["second"])
    shape: list[int | str] = ["N", 3]
    return model([softmax, copy], {"rows": (FLOAT, shape)}, {"first": (FLOAT, shape), "second": (FLOAT, shape)})


def only_for_rows_of_four() -> ModelProto:
    weights = {"weights": np.ones((4, 3), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["rows", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"]),
    ]
    return model(nodes, {"rows": (FLOAT, ["N", "width"])}, {"p": (FLOAT, ["N", 3])}, weights)


def only_for_squares(sample: str | None = None) -> ModelProto:
    nodes = [
        helper.make_node("Reshape", ["rows", "shape"], ["square"]),
        helper.make_node("MatMul", ["square", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"]),
    ]
    weights: dict[str, Any] = {"shape": np.array([0, 4], np.int64), "weights": np.eye(4, 3, dtype=np.float32)}
    properties = {"data_sample": sample} if sample else None
    return model(nodes, {"rows": (FLOAT, ["N", "h", "w"])}, {"p": (FLOAT, ["N", 3])}, weights, properties)


SURE = np.array([[0.5, 0.25, 0.25]], np.float32)


def sample_of(made: Predictor) -> Any:
    return made.signature.inputs.as_json(made.sample)


def with_sequence() -> ModelProto:
    made = of_one_node("ConcatFromSequence", {"parts": ["N", 3]}, ["N", 3], axis=0)
    parts = helper.make_tensor_sequence_value_info("parts", FLOAT, ["N", 3])
    made.graph.input[0].CopyFrom(parts)
    return made


REFUSED = {
    "a regressor": (
        of_one_node("ReduceSum", {"rows": ["N", 4]}, ["N", 1], keepdims=1),
        'has no output of a known kind: "answer" is float32 of shape (1, 1)',
    ),
    "a regressor of as many numbers as labels": (
        of_one_node("Exp", {"rows": ["N", 3]}, ["N", 3]),
        'has no output of a known kind: "answer" is float32 of shape (1, 3)',
    ),
    "a single label output": (
        model(
            [helper.make_node("ArgMax", ["rows"], ["label"], axis=1, keepdims=0)],
            {"rows": (FLOAT, ["N", 4])},
            {"label": (INT64, ["N"])},
        ),
        'has no output of a known kind: "label" is int64 of shape (1,)',
    ),
    "no inputs": (
        model([helper.make_node("Identity", ["weights"], ["p"])], {}, {"p": (FLOAT, [1, 3])}, {"weights": SURE}),
        "has no inputs, so its answer never changes",
    ),
    "inputs of different batches": (
        of_one_node("Add", {"left": [1, 3], "right": [2, 3]}, [2, 3]),
        'takes 1 rows at once as its input "left", but 2 as its input "right"',
    ),
    "one input without a batch dimension": (
        of_one_node("Add", {"left": ["N", 3], "right": []}, ["N", 3]),
        'declares no shape for its input "right"',
    ),
    "an input that is not a tensor": (
        with_sequence(),
        'takes seq(tensor(float)) as its input "parts"; expected a tensor of numbers, text or booleans',
    ),
    "a sum of two inputs": (
        of_one_node("Add", {"left": ["N", 3], "right": ["N", 3]}, ["N", 3]),
        'has no output of a known kind: "answer" is float32 of shape (1, 3)',
    ),
    "text that is read as numbers": (
        model(
            [helper.make_node("Cast", ["text"], ["answer"], to=FLOAT)],
            {"text": (STRING, ["N", 3])},
            {"answer": (FLOAT, ["N", 3])},
        ),
        "fails on a row of the shape (3,) that it declares",
    ),
    "an input without a shape": (
        model([helper.make_node("Exp", ["x"], ["answer"])], {"x": (FLOAT, [])}, {"answer": (FLOAT, [])}),
        'declares no shape for its input "x"',
    ),
    "two answers": (
        twice_the_same_probabilities(),
        'has 2 outputs that can be class probabilities ("first", "second")',
    ),
    "more classes than labels": (classifier(classes=4), "has 4 classes but LABEL_FILEPATH names 3"),
    "fewer classes than labels": (classifier(classes=2), "has 2 classes but LABEL_FILEPATH names 3"),
    "class names that partly match the labels": (
        classifier(zip_map=True, names=["a", "b", "sea"]),
        'has classes that LABEL_FILEPATH does not name: "sea"',
    ),
    "a dynamic number of features": (only_for_rows_of_four(), "does not declare how many numbers a row has"),
    "a dynamic dimension that supports only one length": (
        only_for_squares(),
        'put a row that it takes into its metadata property "data_sample"',
    ),
    "a sample that it fails on": (
        only_for_squares("[[[1, 2]]]"),
        'fails on the row in its property "data_sample"',
    ),
    "a sample with a number out of range": (
        classifier(properties={"data_sample": f"[[1, 2, 3, 1{'0' * 400}]]"}),
        'has a metadata property "data_sample" that is not a row of the model: ',
    ),
    "a sample of another width": (
        classifier(properties={"data_sample": "[[1, 2, 3]]"}),
        'has a metadata property "data_sample" that is not a row of the model: rows[0] has length 3',
    ),
    "a sample that is not JSON": (
        classifier(properties={"data_sample": "[[1,"}),
        'a metadata property "data_sample" that',
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses(tmp_path: Path, kind: str) -> None:
    made, finding = REFUSED[kind]
    path, _ = save(made, tmp_path, LABELS)
    with pytest.raises(StartError) as refusal:
        Predictor(ModelFile.read(path), LABELS)
    message = str(refusal.value)
    assert message.startswith(f"MODEL_FILEPATH: {path} ")
    assert finding in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", classifier().SerializeToString()[:200]])
def test_refuses_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"cannot be loaded as an ONNX model: \w+"):
        Predictor(ModelFile.read(path), LABELS)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        Predictor(ModelFile.read(tmp_path / "model.onnx"), LABELS)


def test_takes_the_sample_from_the_file(tmp_path: Path) -> None:
    sample = [[5.5, -1.25, 0.0, 2.0], [1, 2, 3, 4]]
    path, _ = save(classifier(properties={"data_sample": json.dumps(sample)}), tmp_path, LABELS)
    assert sample_of(Predictor(ModelFile.read(path), LABELS)) == sample[:1]


@pytest.mark.parametrize(
    ("text", "row_shape", "names"),
    [
        ('["a", "b", "b", ""]', (4,), ["a", "b", "b", ""]),
        ('["a", "b"]', (4,), []),
        ('["a", "b"]', (2, 2), []),
        ('["a", "b", "c", 4]', (4,), []),
        ('"abcd"', (4,), []),
        ("a,b,c,d", (4,), []),
        ("[]", (4,), []),
    ],
)
def test_takes_feature_names_from_the_file(
    tmp_path: Path, text: str, row_shape: tuple[int, ...], names: list[str]
) -> None:
    path, _ = save(classifier(row_shape=row_shape, properties={"feature_names": text}), tmp_path, LABELS)
    assert list(Predictor(ModelFile.read(path), LABELS).feature_names) == names


def test_tries_another_synthetic_row_if_zeros_fail(tmp_path: Path) -> None:
    normalised = model(
        [
            helper.make_node("ReduceSum", ["rows", "axes"], ["sums"], keepdims=1),
            helper.make_node("Div", ["rows", "sums"], ["p"]),
        ],
        {"rows": (FLOAT, ["N", 3])},
        {"p": (FLOAT, ["N", 3])},
        {"axes": np.array([1], np.int64)},
    )
    path, _ = save(normalised, tmp_path, LABELS)
    assert sample_of(Predictor(ModelFile.read(path), LABELS)) == [[1, 1, 1]]


def test_feeds_rows_one_by_one_if_the_dynamic_batch_is_false(tmp_path: Path) -> None:
    claims = model(
        [helper.make_node("Reshape", ["rows", "shape"], ["one"]), helper.make_node("Softmax", ["one"], ["p"])],
        {"rows": (FLOAT, ["N", 3])},
        {"p": (FLOAT, ["N", 3])},
        {"shape": np.array([1, 3], np.int64)},
    )
    path, _ = save(claims, tmp_path, LABELS)
    answer = Predictor(ModelFile.read(path), LABELS).predict(np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]], np.float32))
    assert answer.argmax(axis=1).tolist() == [0, 0, 1]


def sigmoids() -> ModelProto:
    """Return a model with two independent sigmoids; both are 0.5 on zeros."""
    return of_one_node("Sigmoid", {"rows": ["N", 2]}, ["N", 2])


def with_names(names: list[str]) -> ModelProto:
    """Return a model with the softmax of the row and the name of the most probable class as outputs."""
    nodes = [
        helper.make_node("Softmax", ["rows"], ["p"], axis=1),
        helper.make_node("ArgMax", ["p"], ["index"], axis=1, keepdims=0),
        helper.make_node("Gather", ["names", "index"], ["name"]),
    ]
    shape: list[int | str] = ["N", 3]
    return model(
        nodes,
        {"rows": (FLOAT, shape)},
        {"name": (STRING, ["N"]), "p": (FLOAT, shape)},
        {"names": np.array(names, object)},
        {"data_sample": "[[0, 0, 9]]"},
    )


def test_refuses_outputs_that_are_probabilities_only_on_zeros(tmp_path: Path) -> None:
    path, _ = save(sigmoids(), tmp_path, ["a", "b"])
    with pytest.raises(StartError, match="has no output of a known kind"):
        Predictor(ModelFile.read(path), ["a", "b"])


def test_refuses_labels_in_the_wrong_order(tmp_path: Path) -> None:
    path, _ = save(with_names(["c", "b", "a"]), tmp_path, LABELS)
    sentence = 'outputs the class "a" for a row, but LABEL_FILEPATH names its most probable class "c"'
    with pytest.raises(StartError, match=sentence):
        Predictor(ModelFile.read(path), LABELS)
    path, _ = save(with_names(LABELS), tmp_path, LABELS)
    assert Predictor(ModelFile.read(path), LABELS).sample_prediction.argmax() == 2


def test_an_output_without_rows_is_ignored(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Softmax", ["rows"], ["p"], axis=1),
        helper.make_node("NonZero", ["rows"], ["indices"]),
        helper.make_node("Transpose", ["indices"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["empty"], to=FLOAT),
    ]
    shape: list[int | str] = ["N", 3]
    made = model(nodes, {"rows": (FLOAT, shape)}, {"empty": (FLOAT, ["M", 2]), "p": (FLOAT, shape)})
    path, _ = save(made, tmp_path, LABELS)
    assert Predictor(ModelFile.read(path), LABELS).sample_prediction.shape == (1, 3)


def test_sample_fixes_the_number_of_features(tmp_path: Path) -> None:
    made = only_for_rows_of_four()
    helper.set_model_props(made, {"data_sample": "[[1, 2, 3, 4]]"})
    path, _ = save(made, tmp_path, LABELS)
    spec = Predictor(ModelFile.read(path), LABELS).spec
    assert isinstance(spec, RowSpec)
    assert spec.row_shape == (4,)
