"""The selection of a file's output, and the suggested fixes for unsupported outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from model_server.errors import StartError
from model_server.model.model import Model
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.model.tasks import ModelOutput, Task
from model_server.settings import Settings
from tests.support.classifiers import Array, model
from volume.settings import SettingsError

BOOL, FLOAT, INT64, STRING = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
ML = "ai.onnx.ml"
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
SCORES = ROWS @ WEIGHTS
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)


def network(
    *kinds: str, columns: int = 3, output: list[int | str] | None = None, properties: dict[str, str] | None = None
) -> ModelProto:
    """Return a model that multiplies a row by the first columns of the weights and then applies these operators."""
    kinds = kinds or ("Identity",)
    names = ["scores", *(f"step {index}" for index in range(len(kinds) - 1)), "y"]
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["scores"])]
    for kind, taken, given in zip(kinds, names, names[1:], strict=False):
        axes: dict[str, Any] = {"axis": 1} if kind in ("Softmax", "LogSoftmax", "Flatten") else {}
        shape = ["new shape"] if kind == "Reshape" else []
        nodes.append(helper.make_node(kind, [taken, *shape], [given], **axes))
    weights: dict[str, Array] = {"weights": WEIGHTS[:, :columns], "new shape": np.array([-1], np.int64)}
    return model(
        nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, output or ["N", columns])}, weights, properties=properties
    )


def load(made: ModelProto, directory: Path, setting: str = "", labels: list[str] | None = None) -> Model:
    (directory / "model.onnx").write_bytes(made.SerializeToString())
    environment = {"MODEL_FILEPATH": str(directory / "model.onnx"), "MODEL_OUTPUT": setting}
    if labels is not None:
        (directory / "label.json").write_text(json.dumps(dict(enumerate(labels))))
        environment["LABEL_FILEPATH"] = str(directory / "label.json")
    return Model.load(Settings.read(environment))


LOGISTIC = 1 / (1 + np.exp(-SCORES))
SERVED: dict[str, tuple[ModelProto, str, Array]] = {
    "probabilities": (network("Softmax"), "probabilities", PROBABILITIES),
    "logits": (network(), "logits", PROBABILITIES),
    "logits of a property": (network(properties={"model_output": "logits:y"}), "", PROBABILITIES),
    "a setting over a property": (network(properties={"model_output": "values"}), "logits", PROBABILITIES),
    "log probabilities": (network("LogSoftmax"), "log_probabilities", PROBABILITIES),
    "one sigmoid": (network("Sigmoid", columns=1), "sigmoid", np.hstack([1 - LOGISTIC[:, :1], LOGISTIC[:, :1]])),
    "one sigmoid in one dimension": (
        network("Sigmoid", "Reshape", columns=1, output=["N"]),
        "sigmoid",
        np.hstack([1 - LOGISTIC[:, :1], LOGISTIC[:, :1]]),
    ),
    "one logit": (network(columns=1), "sigmoid_logits", np.hstack([1 - LOGISTIC[:, :1], LOGISTIC[:, :1]])),
}


@pytest.mark.parametrize("kind", SERVED)
def test_classes(tmp_path: Path, kind: str) -> None:
    made, setting, expected = SERVED[kind]
    names = ["a", "b", "c"][: expected.shape[1]]
    loaded = load(made, tmp_path, setting, names)
    assert loaded.task is Task.CLASSES
    assert loaded.metadata.task is None
    np.testing.assert_allclose(loaded.predict(ROWS), expected, atol=1e-6)
    assert loaded.predict(ROWS).dtype == np.float32
    assert loaded.predict_label(ROWS) == [names[index] for index in expected.argmax(axis=1)]


@pytest.mark.parametrize(("nodes", "setting"), [(("Sigmoid",), "sigmoid"), ((), "sigmoid_logits")])
def test_independent_labels(tmp_path: Path, nodes: tuple[str, ...], setting: str) -> None:
    loaded = load(network(*nodes), tmp_path, setting, ["a", "b", "c"])
    np.testing.assert_allclose(loaded.predict(ROWS), LOGISTIC, atol=1e-6)
    expected = [[name for name, probable in zip("abc", row, strict=True) if probable] for row in LOGISTIC >= 0.5]
    assert loaded.predict_label(ROWS) == expected
    assert len({len(labels) for labels in expected}) > 1
    assert loaded.metadata.task == "multilabel"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (network(), SCORES),
        (network(columns=1), SCORES[:, 0]),
        (network("Reshape", columns=1, output=["N"]), SCORES[:, 0]),
    ],
    ids=["several", "one", "one in one dimension"],
)
def test_values(tmp_path: Path, made: ModelProto, expected: Array) -> None:
    loaded = load(made, tmp_path, "values")
    np.testing.assert_allclose(loaded.predict(ROWS), expected, rtol=1e-5)
    assert loaded.predict(ROWS).shape == expected.shape
    assert loaded.labels == {}
    assert loaded.metadata.task == "values"
    assert loaded.metadata.prediction_shape == str((1, *expected.shape[1:]))
    assert loaded.metadata.prediction_sample == [0.0] * max(1, expected[0].size)


def test_values_may_be_integers_or_booleans(tmp_path: Path) -> None:
    nodes = [helper.make_node("Greater", ["x", "zero"], ["y"])]
    made = model(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (BOOL, ["N", 4])}, {"zero": np.zeros(1, np.float32)})
    assert load(made, tmp_path, "values").predict(ROWS).tolist() == (ROWS > 0).astype(int).tolist()
    made = model(
        [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)],
        {"x": (FLOAT, ["N", 4])},
        {"y": (INT64, ["N"])},
    )
    assert load(made, tmp_path, "values").predict(ROWS).tolist() == ROWS.argmax(axis=1).tolist()


def linear(kind: str, given: str, *others: NodeProto, **attributes: Any) -> ModelProto:
    node = helper.make_node(
        kind, ["x"], given.split(), domain=ML, coefficients=WEIGHTS.T.ravel().tolist(), intercepts=[0.0] * 3,
        **attributes,
    )  # fmt: skip
    outputs: dict[str, Any] = {"y": (FLOAT, ["N", 3])}
    if "label" in given:
        outputs["label"] = (STRING, ["N"])
    return model([node, *others], {"x": (FLOAT, ["N", 4])}, outputs)


def test_a_regressor_needs_no_setting(tmp_path: Path) -> None:
    loaded = load(linear("LinearRegressor", "y", targets=3), tmp_path)
    np.testing.assert_allclose(loaded.predict(ROWS), SCORES, rtol=1e-5)
    assert loaded.task is Task.VALUES
    # The loader may have loaded a label file; a regressor ignores it.
    assert load(linear("LinearRegressor", "y", targets=3), tmp_path, labels=["a"]).labels == {}


def named(classes: list[str], **properties: str) -> ModelProto:
    made = linear("LinearClassifier", "label y", classlabels_strings=classes, post_transform="SOFTMAX")
    helper.set_model_props(made, properties)
    return made


def test_names_come_from_the_model(tmp_path: Path) -> None:
    assert load(named(["c", "a", "b"]), tmp_path).labels == {"0": "c", "1": "a", "2": "b"}
    assert load(named(["c", "a", "b"]), tmp_path, "values:y").labels == {}
    by_property = network("Softmax", properties={"class_names": '["c", "a", "b"]'})
    assert list(load(by_property, tmp_path).labels.values()) == ["c", "a", "b"]
    zipped = helper.make_node("ZipMap", ["p"], ["y"], domain=ML, classlabels_strings=["c", "a", "b"])
    made = model([helper.make_node("Softmax", ["x"], ["p"], axis=1), zipped], {"x": (FLOAT, ["N", 3])}, {"y": None})
    loaded = load(made, tmp_path)
    assert list(loaded.labels.values()) == ["a", "b", "c"]  # ONNX Runtime gives the maps in this order
    assert loaded.predict_label(np.eye(3, dtype=np.float32)) == ["c", "a", "b"]
    helper.set_model_props(made, {"class_names": '["c", "a", "b"]'})
    loaded = load(made, tmp_path)
    assert list(loaded.labels.values()) == ["c", "a", "b"]
    assert loaded.predict_label(np.eye(3, dtype=np.float32)) == ["c", "a", "b"]


def test_a_label_file_overrides_the_model(tmp_path: Path) -> None:
    made = network("Softmax", properties={"class_names": '["c", "a", "b"]'})
    assert list(load(made, tmp_path, labels=["x", "y", "z"]).labels.values()) == ["x", "y", "z"]


def test_missing_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="does not exist, and the model does not name its 3 classes") as refusal:
        load(network("Softmax"), tmp_path)
    assert refusal.value.code == "labels-missing"
    with pytest.raises(StartError, match='has 3 classes but its metadata property "class_names" names 2'):
        load(network("Softmax", properties={"class_names": '["a", "b"]'}), tmp_path)
    with pytest.raises(SettingsError, match=r"^LABEL_FILEPATH is /none/label\.json: No such file"):
        Settings.read({"MODEL_FILEPATH": str(tmp_path / "model.onnx"), "LABEL_FILEPATH": "/none/label.json"})


@pytest.mark.parametrize("text", ["{}", '"abc"', "[1, 2, 3]", "a,b,c", "["])
def test_an_unrelated_class_names_property_is_ignored(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartError, match="does not name its 3 classes"):
        load(network("Softmax", properties={"class_names": text}), tmp_path)


def test_models_own_label_of_the_sample(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(named(["c", "a", "b"]).SerializeToString())
    assert Predictor(ModelFile.read(tmp_path / "model.onnx")).signature.output.model_label == "c"


REFUSED: dict[str, tuple[ModelProto, str, str]] = {
    "logits": (network(), "", "set MODEL_OUTPUT=logits for class scores"),
    "log probabilities": (network("LogSoftmax"), "", "set MODEL_OUTPUT=log_probabilities "),
    "one sigmoid": (network("Sigmoid", columns=1), "", "set MODEL_OUTPUT=sigmoid "),
    "several sigmoids": (network("Sigmoid"), "", "set MODEL_OUTPUT=sigmoid for the probabilities of independent"),
    "one number": (network(columns=1), "", "MODEL_OUTPUT=values for the numbers"),
    "scores called probabilities": (network(), "probabilities", "set MODEL_OUTPUT=logits "),
    "logits called log probabilities": (network("Exp"), "log_probabilities", "set MODEL_OUTPUT=logits "),
    "logits called sigmoid": (network("Exp"), "sigmoid", "set MODEL_OUTPUT=logits "),
    "one number called logits": (network(columns=1), "logits", "MODEL_OUTPUT=values "),
    "no such output": (network(), "logits:z", "set MODEL_OUTPUT=logits:y"),
    "an unknown kind": (network(properties={"model_output": "numbers"}), "", "correct the property"),
    "scores of a classifier": (
        linear("LinearClassifier", "label y", classlabels_strings=["a", "b", "c"]), "", "CalibratedClassifierCV",
    ),
    "no batch dimension": (
        model([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": (FLOAT, [4])}, {"y": (FLOAT, [])}),
        "values",
        "export it with a batch dimension",
    ),
    "a sequence": (
        model(
            [helper.make_node("SplitToSequence", ["x"], ["y"], axis=1)], {"x": (FLOAT, ["N", 4])}, {"y": None}
        ),
        "values",
        "instead of a sequence",
    ),
    "each position": (
        model(
            [
                helper.make_node("Unsqueeze", ["x", "axes"], ["a"]),
                helper.make_node("Concat", ["a", "a"], ["y"], axis=2),
            ],
            {"x": (INT64, ["N", "length"])},
            {"y": (INT64, ["N", "length", 2])},
            {"axes": np.array([2], np.int64)},
        ),
        "",
        "MODEL_OUTPUT=values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses(tmp_path: Path, kind: str) -> None:
    made, setting, change = REFUSED[kind]
    with pytest.raises(StartError) as refusal:
        load(made, tmp_path, setting, ["a", "b", "c"])
    assert change in refusal.value.fix
    assert "\n" not in str(refusal.value)


def test_an_unknown_output_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^MODEL_OUTPUT is 'scores'; expected one of probabilities, logits, "):
        load(network(), tmp_path, "scores")
    assert str(ModelOutput.parse("values:a:b")) == "values:a:b"


def test_log_probability_of_minus_infinity_is_zero(tmp_path: Path) -> None:
    loaded = load(network("Softmax", "Log"), tmp_path, "log_probabilities", ["a", "b", "c"])
    answer = loaded.predict(np.array([WEIGHTS[:, 0] * 1000], np.float32))
    assert answer.min() == 0
    assert answer.sum() == pytest.approx(1)


def test_large_logits_do_not_overflow(tmp_path: Path) -> None:
    loaded = load(network(), tmp_path, "logits", ["a", "b", "c"])
    assert loaded.predict(ROWS * 1e6).max(axis=1).tolist() == [1] * 5
    loaded = load(network(), tmp_path, "sigmoid_logits", ["a", "b", "c"])
    assert set(loaded.predict(ROWS * 1e6).ravel().tolist()) == {0, 1}
