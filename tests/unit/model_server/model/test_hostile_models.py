"""Models that read outside their directory or need too much memory are refused with a one-line error."""

import os
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper

from model_server.errors import StartError
from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.classifiers import classifier, save
from volume.settings import SettingsError


def load(made: ModelProto, directory: Path) -> Model:
    model_path, label_path = save(made, directory, ["a", "b", "c"])
    return Model.load(Settings.read({"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)}))


def weights_at(location: str) -> tuple[ModelProto, bytes]:
    """Return a classifier with its weights in another file, and the content of that file."""
    made = classifier()
    [weights] = [tensor for tensor in made.graph.initializer if tensor.name == "weights"]
    content = weights.raw_data
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    return made, content


@pytest.mark.parametrize("location", ["../weights", "{outside}", "link", "endless", "in/../../weights"])
def test_weights_outside_the_directory_are_refused(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "model"
    (inside / "in").mkdir(parents=True)
    made, content = weights_at(location.format(outside=tmp_path / "weights"))
    (tmp_path / "weights").write_bytes(content)
    (inside / "link").symlink_to("../weights")
    (inside / "endless").symlink_to("/dev/zero")
    with pytest.raises(StartError, match="External data path validation failed"):
        load(made, inside)


def test_weights_inside_the_directory_are_loaded(tmp_path: Path) -> None:
    made, content = weights_at("weights")
    (tmp_path / "weights").write_bytes(content)
    assert load(made, tmp_path).metadata.data_shape == "(1, 4)"


def test_weights_smaller_than_declared_are_refused(tmp_path: Path) -> None:
    made = classifier()
    [weights] = [tensor for tensor in made.graph.initializer if tensor.name == "weights"]
    weights.dims[:] = [4, 1 << 44]
    with pytest.raises(StartError, match="cannot be loaded as an ONNX model"):
        load(made, tmp_path)


@pytest.mark.parametrize("elements", [50_000_000_000, 1 << 48])
def test_a_tensor_larger_than_memory_is_refused(tmp_path: Path, elements: int) -> None:
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this machine promises any memory")
    made = classifier()
    made.graph.initializer.append(helper.make_tensor("length", TensorProto.INT64, [1], [elements]))
    made.graph.node.insert(0, helper.make_node("ConstantOfShape", ["length"], ["vast"]))
    made.graph.node.append(helper.make_node("ReduceSum", ["vast"], ["sum"], keepdims=0))
    made.graph.node.append(helper.make_node("Add", [made.graph.output[0].name, "sum"], ["total"]))
    made.graph.output[0].name = "total"
    with pytest.raises(StartError, match=r"fails on a row of the shape .*: export a smaller model"):
        load(made, tmp_path)


@pytest.mark.parametrize(
    ("batch", "row"), [("N", (1 << 25,)), ("N", (1 << 62, 1 << 62)), (1 << 40, (4,)), (1 << 30, ("length",))]
)
def test_rows_with_too_many_numbers_are_refused(tmp_path: Path, batch: int | str, row: tuple[int | str, ...]) -> None:
    made = classifier(row_shape=("length",))
    shape = made.graph.input[0].type.tensor_type.shape
    shape.CopyFrom(helper.make_tensor_value_info("rows", TensorProto.FLOAT, [batch, *row]).type.tensor_type.shape)
    with pytest.raises(StartError, match=r"takes \d+ numbers at once, of shape .*; expected at most 16777216"):
        load(made, tmp_path)


@pytest.mark.parametrize("name", ["MODEL_FILEPATH", "LABEL_FILEPATH"])
def test_endless_files_are_refused(tmp_path: Path, name: str) -> None:
    model_path, label_path = save(classifier(), tmp_path, ["a", "b", "c"])
    environment = {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)}
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    findings = {"pipe": "Not a regular file", "endless": "Not a regular file", "circle": "Too many levels of symbolic"}
    for found, finding in findings.items():
        with pytest.raises(SettingsError, match=f"^{name} is {tmp_path}/{found}: {finding}"):
            Settings.read({**environment, name: str(tmp_path / found)})
