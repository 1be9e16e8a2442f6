"""A model is told from what is none, and its files are found, wherever onnx.proto lets them be named."""

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from loader.verification.onnx_file import external_data_locations

SHIPPED = Path(__file__).parents[4] / "models" / "iris_svc.onnx"


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def model(**graph: Any) -> ModelProto:
    nodes = graph.pop("nodes", [])
    made: ModelProto = helper.make_model(helper.make_graph(nodes, "g", [], [], **graph))
    return made


def attribute(**fields: Any) -> AttributeProto:
    return AttributeProto(name="a", **fields)


def node(attribute: AttributeProto) -> NodeProto:
    made = helper.make_node("If", ["c"], ["y"])
    made.attribute.append(attribute)
    return made


def locations(tmp_path: Path, content: bytes) -> list[str]:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    return external_data_locations(path)


def test_a_model_may_have_no_external_data() -> None:
    assert external_data_locations(SHIPPED) == []


def test_each_name_is_found_once_in_order(tmp_path: Path) -> None:
    tensors: list[TensorProto] = [external("b"), external("a"), external("./b"), external("././b"), external("b")]
    assert locations(tmp_path, model(initializer=tensors).SerializeToString()) == ["b", "a"]


def test_what_a_tensor_is_said_to_hold_takes_nothing(tmp_path: Path) -> None:
    vast = external("w")
    vast.dims[:] = [1 << 62, 1 << 62]
    inside = TensorProto(name="u", data_type=TensorProto.FLOAT, dims=[1 << 62], raw_data=b"1234")
    assert locations(tmp_path, model(initializer=[vast, inside]).SerializeToString()) == ["w"]


def test_names_that_do_not_count_are_left(tmp_path: Path) -> None:
    tensor = external("unused")
    tensor.data_location = TensorProto.DEFAULT
    assert locations(tmp_path, model(initializer=[tensor]).SerializeToString()) == []


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(model(sparse_initializer=[SparseTensorProto(values=external("w"))]), id="sparse initializer"),
        pytest.param(model(nodes=[node(attribute(t=external("w")))]), id="attribute"),
        pytest.param(model(nodes=[node(attribute(tensors=[external("w")]))]), id="list in an attribute"),
        pytest.param(
            model(nodes=[node(attribute(sparse_tensor=SparseTensorProto(indices=external("w"))))]), id="sparse tensor"
        ),
        pytest.param(
            model(nodes=[node(attribute(g=model(initializer=[external("w")]).graph))]), id="graph in an attribute"
        ),
        pytest.param(
            model(nodes=[node(attribute(graphs=[model(nodes=[node(attribute(t=external("w")))]).graph]))]),
            id="node of a graph in a node",
        ),
    ],
)
def test_names_are_found_wherever_a_tensor_can_be(tmp_path: Path, made: ModelProto) -> None:
    assert locations(tmp_path, made.SerializeToString()) == ["w"]


def test_names_are_found_in_functions_and_training_graphs(tmp_path: Path) -> None:
    made = model()
    made.functions.add(name="f").node.append(node(attribute(t=external("f"))))
    made.training_info.add().initialization.initializer.append(external("t"))
    assert sorted(locations(tmp_path, made.SerializeToString())) == ["f", "t"]


@pytest.mark.parametrize(
    "location",
    [
        "",
        ".",
        "..",
        "../w",
        "a/../w",
        "/w",
        "//w",
        "a\\w",
        "C:w",
        ".hidden",
        "a/.b",
        "a\0b",
        "a\nb",
        "sub//w",
        "sub/./w",
        "sub/",
        ".//w",
        "./",
    ],
)
def test_names_that_leave_the_directory_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(ValueError, match="relative path inside the model's directory"):
        locations(tmp_path, model(initializer=[external(location)]).SerializeToString())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IR version"),
        (b"<!DOCTYPE html>", "no protobuf|breaks off"),
        (b"\x08\x07", "no graph and no operator set"),
        (b"\x08\x00", "IR version"),
        (b"\x0a\x01\x07", "IR version"),
        (b"\x08" + b"\xff" * 11, "no protobuf"),
        (b"\x08\xff", "breaks off"),
        (b"\x3a\x7f", "breaks off"),
        (b"\x39\x00", "breaks off"),
        (b"\x3d\x00", "breaks off"),
        (b"\x3b", "no protobuf"),
        (b"\x02\x00", "no protobuf"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locations(tmp_path, content)


def test_a_model_that_is_cut_anywhere_is_refused_or_has_lost_whole_fields(tmp_path: Path) -> None:
    content = model(initializer=[external("w")]).SerializeToString()
    graph_end = content.rindex(b"location") + len(b"location")
    for end in range(graph_end):
        with pytest.raises(ValueError, match=r"breaks off|no protobuf|it has no|IR version"):
            locations(tmp_path, content[:end])


def test_damage_raises_nothing_else(tmp_path: Path) -> None:
    chance = random.Random(0)  # noqa: S311 (the same damage each time)
    content = SHIPPED.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with suppress(ValueError):
            locations(tmp_path, bytes(damaged))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    content = model(initializer=[external("name")]).SerializeToString().replace(b"name", b"n\xff\xffe")
    with pytest.raises(ValueError, match="not UTF-8"):
        locations(tmp_path, content)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(150):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # graph in an attribute in a node in a graph
            length = len(graph)
            size = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
            graph = tag + size + graph
    size = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7 & 0x7F | 0x80, len(graph) >> 14])
    with pytest.raises(ValueError, match="nested more than"):
        locations(tmp_path, b"\x3a" + size + graph)


def test_a_name_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5000 bytes"):
        locations(tmp_path, model(initializer=[external("w" * 5000)]).SerializeToString())


def test_names_without_end_are_refused(tmp_path: Path) -> None:
    tensors: list[TensorProto] = [external(str(number)) for number in range(10_001)]
    with pytest.raises(ValueError, match="more than 10000 files"):
        locations(tmp_path, model(initializer=tensors).SerializeToString())
