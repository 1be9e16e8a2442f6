"""The parser refuses other files, and finds the same versions and external data files as the onnx package."""

import random
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from tests.support.processes import ROOT
from volume import onnx_file
from volume.onnx_file import OnnxError, OnnxInfo, parse_opsets, read_onnx

SHIPPED = ROOT / "models" / "iris_svc.onnx"


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


def locations(content: bytes) -> list[str]:
    return list(read_onnx(BytesIO(content)).external_data)


def test_a_model_without_external_data() -> None:
    assert locations(SHIPPED.read_bytes()) == []


def test_each_name_is_found_once_in_order() -> None:
    tensors: list[TensorProto] = [external("b"), external("a"), external("./b"), external("././b"), external("b")]
    assert locations(model(initializer=tensors).SerializeToString()) == ["b", "a"]


def test_declared_shapes_allocate_no_memory() -> None:
    vast = external("w")
    vast.dims[:] = [1 << 62, 1 << 62]
    inside = TensorProto(name="u", data_type=TensorProto.FLOAT, dims=[1 << 62], raw_data=b"1234")
    assert locations(model(initializer=[vast, inside]).SerializeToString()) == ["w"]


def test_names_of_internal_tensors_are_ignored() -> None:
    tensor = external("unused")
    tensor.data_location = TensorProto.DEFAULT
    assert locations(model(initializer=[tensor]).SerializeToString()) == []


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
def test_names_are_found_in_every_place_for_a_tensor(made: ModelProto) -> None:
    assert locations(made.SerializeToString()) == ["w"]


def test_names_are_found_in_functions_and_training_graphs() -> None:
    made = model()
    made.functions.add(name="f").node.append(node(attribute(t=external("f"))))
    made.training_info.add().initialization.initializer.append(external("t"))
    assert sorted(locations(made.SerializeToString())) == ["f", "t"]


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
        "*",
        "*/_ORT_MEM_ADDR_/*",
        "w*",
        "a\u202eb",
    ],
)
def test_names_that_leave_the_directory_are_refused(location: str) -> None:
    with pytest.raises(OnnxError, match="relative path inside the model's directory"):
        locations(model(initializer=[external(location)]).SerializeToString())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IR version"),
        (b"<!DOCTYPE html>", "not protobuf|truncated"),
        (b"\x08\x07", "no graph and no operator set"),
        (b"\x08\x00", "IR version"),
        (b"\x0a\x01\x07", "wire type"),
        (b"\x08" + b"\xff" * 11, "not protobuf"),
        (b"\x08\xff", "truncated"),
        (b"\x3a\x7f", "truncated"),
        (b"\x39\x00", "truncated"),
        (b"\x3d\x00", "truncated"),
        (b"\x3b", "not protobuf"),
        (b"\x02\x00", "not protobuf"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(OnnxError, match=message):
        locations(content)


def test_a_truncated_model_is_refused_or_lacks_whole_fields() -> None:
    content = model(initializer=[external("w")]).SerializeToString()
    graph_end = content.rindex(b"location") + len(b"location")
    for end in range(graph_end):
        with pytest.raises(OnnxError, match=r"truncated|not protobuf|it has no|IR version"):
            locations(content[:end])


def test_damaged_files_raise_no_other_error() -> None:
    chance = random.Random(0)  # noqa: S311 (the same damage each time)
    content = SHIPPED.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with suppress(OnnxError):
            locations(bytes(damaged))


def test_a_name_that_is_not_utf8_is_refused() -> None:
    content = model(initializer=[external("name")]).SerializeToString().replace(b"name", b"n\xff\xffe")
    with pytest.raises(OnnxError, match="not UTF-8"):
        locations(content)


def test_deep_nesting_is_refused() -> None:
    graph = b""
    for _ in range(150):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # graph in an attribute in a node in a graph
            length = len(graph)
            size = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
            graph = tag + size + graph
    size = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7 & 0x7F | 0x80, len(graph) >> 14])
    with pytest.raises(OnnxError, match="nested more than"):
        locations(b"\x3a" + size + graph)


def test_an_overlong_name_is_refused() -> None:
    with pytest.raises(OnnxError, match="5000 bytes"):
        locations(model(initializer=[external("w" * 5000)]).SerializeToString())


def test_too_many_names_are_refused() -> None:
    tensors: list[TensorProto] = [external(str(number)) for number in range(10_001)]
    with pytest.raises(OnnxError, match="more than 10000 files"):
        locations(model(initializer=tensors).SerializeToString())


def test_versions_and_producer_are_returned() -> None:
    made = helper.make_model(
        helper.make_graph([], "g", [], []),
        producer_name="pytorch",
        producer_version="2.9",
        ir_version=10,
        opset_imports=[
            helper.make_opsetid("", 20),
            helper.make_opsetid("ai.onnx", 21),
            helper.make_opsetid("ai.onnx.ml", 3),
            helper.make_opsetid("a", 1),
        ],
    )
    made.functions.add(name="f").opset_import.add(domain="ai.onnx.ml", version=4)
    info = read_onnx(BytesIO(made.SerializeToString()))
    assert info == OnnxInfo(
        ir_version=10,
        opsets={"ai.onnx": 21, "ai.onnx.ml": 4, "a": 1},
        producer_name="pytorch",
        producer_version="2.9",
    )
    assert (info.producer, info.opsets_text) == ("pytorch 2.9", "21,a:1,ai.onnx.ml:4")
    assert read_onnx(BytesIO(model().SerializeToString())).producer == ""


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def piece(field: int, wire: int, value: int | bytes) -> bytes:
    """Return an encoded protobuf field."""
    body = varint(value) if isinstance(value, int) else varint(len(value)) + value if wire == 2 else value
    return varint(field << 3 | wire) + body


ENTRY = piece(13, 2, piece(1, 2, b"location") + piece(2, 2, b"w"))
HEAD = piece(1, 0, 7) + piece(8, 2, piece(2, 0, 13))


def with_tensor(content: bytes) -> bytes:
    return HEAD + piece(7, 2, piece(5, 2, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(with_tensor(ENTRY + piece(14, 0, (1 << 32) + 1)), "data location", id="enum of 33 bits"),
        pytest.param(with_tensor(ENTRY + piece(14, 0, 2)), "data location", id="unknown enum"),
        pytest.param(with_tensor(ENTRY + piece(1 << 29 | 14, 0, 1)), "not protobuf", id="tag of 33 bits"),
        pytest.param(with_tensor(ENTRY + piece(14, 0, 1) + piece(14, 0, 0)), "twice", id="location twice"),
        pytest.param(with_tensor(ENTRY + piece(14, 2, b"\1")), "wire type", id="location as bytes"),
        pytest.param(with_tensor(ENTRY + ENTRY + piece(14, 0, 1)), "more than one location", id="two files"),
        pytest.param(
            with_tensor(
                piece(13, 2, piece(1, 2, b"location") + piece(2, 2, b"w") + piece(2, 2, b"v")) + piece(14, 0, 1)
            ),
            "twice",
            id="name twice",
        ),
        pytest.param(
            HEAD + piece(7, 2, b"") + piece(7, 2, b""), "field 7 of ModelProto occurs twice", id="graph twice"
        ),
        pytest.param(
            HEAD + piece(1, 0, 7) + piece(7, 2, b""), "field 1 of ModelProto occurs twice", id="IR version twice"
        ),
        pytest.param(with_tensor(b"\xf0\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x01"), "not protobuf", id="long tag"),
        pytest.param(with_tensor(piece(2, 0, 1 << 64)), "not protobuf", id="number of 65 bits"),
        pytest.param(with_tensor(b"\x4a\x7f"), "truncated", id="length beyond the message"),
        pytest.param(HEAD + piece(7, 0, 1), "field 7 of ModelProto has the wire type 0", id="graph as a number"),
        pytest.param(piece(1, 0, 1 << 63) + HEAD, "IR version", id="negative IR version"),
        pytest.param(HEAD + piece(8, 2, piece(2, 0, 1 << 40)), "operator set's version", id="opset of 41 bits"),
        pytest.param(HEAD + piece(2, 2, b"\xff"), "producer is not UTF-8", id="producer that is not UTF-8"),
    ],
)
def test_ambiguous_input_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(OnnxError, match=message):
        read_onnx(BytesIO(content))


def test_too_many_operator_sets_are_refused() -> None:
    content = HEAD + piece(7, 2, b"")
    content += b"".join(piece(8, 2, piece(1, 2, str(number).encode()) + piece(2, 0, 1)) for number in range(10_001))
    with pytest.raises(OnnxError, match="more than 10000 domains"):
        read_onnx(BytesIO(content))


def leads(message: Descriptor, above: tuple[Descriptor, ...] = ()) -> bool:
    """Return whether a message can contain a tensor or an operator set."""
    if message.name in ("TensorProto", "OperatorSetIdProto"):
        return True
    return message not in above and any(
        leads(field.message_type, (*above, message)) for field in message.fields if field.message_type
    )


WIRES = {
    FieldDescriptor.TYPE_INT32: 0,
    FieldDescriptor.TYPE_INT64: 0,
    FieldDescriptor.TYPE_UINT64: 0,
    FieldDescriptor.TYPE_ENUM: 0,
    FieldDescriptor.TYPE_DOUBLE: 1,
    FieldDescriptor.TYPE_STRING: 2,
    FieldDescriptor.TYPE_BYTES: 2,
    FieldDescriptor.TYPE_MESSAGE: 2,
    FieldDescriptor.TYPE_FLOAT: 5,
}


def kinds(message: Descriptor, *, repeated: bool) -> dict[int, int | str]:
    found: dict[int, int | str] = {}
    for field in message.fields:
        if field.is_repeated == repeated:
            inner = field.message_type
            entered = inner and (leads(inner) or (message.name, field.name) == ("TensorProto", "external_data"))
            found[field.number] = inner.name if entered else WIRES[field.type]
    return found


def test_the_fields_match_onnx_proto() -> None:
    expected: dict[str, tuple[dict[int, int | str], ...]] = {}
    rest = [ModelProto.DESCRIPTOR]
    while rest:
        message = rest.pop()
        if message.name not in expected:
            expected[message.name] = tuple(kinds(message, repeated=repeated) for repeated in (False, True))
            entered = {kind for part in expected[message.name] for kind in part.values()}
            rest += [
                field.message_type
                for field in message.fields
                if field.message_type and field.message_type.name in entered
            ]
    assert expected == onnx_file._FIELDS


def tensors(message: Message) -> Iterator[TensorProto]:
    """Yield all tensors in a message."""
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                yield from tensors(inner)


def by_onnx(content: bytes) -> tuple[int, dict[str, int], str, str, set[str]]:
    """Return what the onnx package finds in a file.

    Raises:
        DecodeError: it is not protobuf.
    """
    made = ModelProto.FromString(content)
    opsets: dict[str, int] = {}
    for opset in [*made.opset_import, *(each for function in made.functions for each in function.opset_import)]:
        domain = opset.domain or "ai.onnx"
        opsets[domain] = max(opset.version, opsets.get(domain, 0))
    files = {
        str(Path({entry.key: entry.value for entry in tensor.external_data}.get("location", "")))
        for tensor in tensors(made)
        if tensor.data_location == TensorProto.EXTERNAL
    }
    return made.ir_version, opsets, made.producer_name, made.producer_version, files


# Mostly valid values: an input with several faults would be refused for the first one and not test the others.
NUMBERS = [1] * 12 + [0, 13, (1 << 32) + 1, 1 << 31, (1 << 63) + 1, (1 << 64) + 1]
STRINGS = [b"w", b"v", b"location", b"a/b"] * 6 + [b"", b"../w", b"*", b"ai.onnx", b"\xff"]
ODDITIES = [""] * 45 + ["tag", "wire", "twice", "cut", "overlong"]


def oddly(made: bytes, number: int, wire: int, oddity: str) -> bytes:
    """Return a field with a fault."""
    tag = varint(number << 3 | wire)
    rest = made[len(tag) :]
    return {
        "": made,
        "tag": varint(1 << 32 | number << 3 | wire) + rest,
        "wire": piece(number, 0, 1),
        "twice": made + made,
        "cut": made[:-1],
        "overlong": bytes([*tag[:-1], tag[-1] | 0x80, 0]) + rest,
    }[oddity]


def fields_of(draw: st.DrawFn, message: str, depth: int = 5, without: frozenset[int] = frozenset()) -> bytes:
    """Draw the bytes of a message that is almost one of onnx.proto."""
    once, repeated = onnx_file._FIELDS[message]
    known = once | repeated
    out = b""
    for number in draw(st.lists(st.sampled_from(sorted(known.keys() - without)), max_size=4, unique=True)):
        kind = known[number]
        value: int | bytes
        if isinstance(kind, str):
            wire, value = 2, fields_of(draw, kind, depth - 1) if depth else b""
        elif kind in (1, 5):
            wire, value = kind, bytes(8 if kind == 1 else 4)
        else:
            wire, value = kind, draw(st.sampled_from(NUMBERS)) if kind == 0 else draw(st.sampled_from(STRINGS))
        out += oddly(piece(number, wire, value), number, wire, draw(st.sampled_from(ODDITIES)))
    return out


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw a file that is almost a model, mostly with a tensor that may be external."""
    marks = [(entry, place) for entry in (b"", ENTRY) for place in (0, 1)]
    entry, place = draw(st.sampled_from(marks))
    location = oddly(piece(14, 0, place), 14, 0, draw(st.sampled_from(ODDITIES[-10:])))
    tensor = entry + location + fields_of(draw, "TensorProto", without=frozenset({13, 14}))
    graph = piece(7, 2, piece(5, 2, tensor) + fields_of(draw, "GraphProto"))
    return HEAD + graph + fields_of(draw, "ModelProto", without=frozenset({1, 7}))


@given(files())
@example(with_tensor(ENTRY + piece(14, 0, 1)))
@example(with_tensor(ENTRY + piece(14, 0, (1 << 32) + 1)))
def test_the_parser_agrees_with_onnx_or_refuses_the_file(content: bytes) -> None:
    try:
        info = read_onnx(BytesIO(content))
    except OnnxError:
        return
    with suppress(DecodeError):
        found = by_onnx(content)
        assert found[:4] == (info.ir_version, info.opsets, info.producer_name, info.producer_version)
        assert found[4] == set(info.external_data)


@given(st.data())
def test_damage_cannot_hide_a_file(data: st.DataObject) -> None:
    nested = node(attribute(g=model(initializer=[external("v")]).graph))
    content = bytearray(model(initializer=[external("w")], nodes=[nested]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    test_the_parser_agrees_with_onnx_or_refuses_the_file.hypothesis.inner_test(bytes(content))  # type: ignore[attr-defined]


def test_a_large_tree_ensemble_is_parsed_quickly_in_little_memory(tmp_path: Path) -> None:
    numbers = [1.5] * 2_000_000
    made = model(nodes=[node(attribute(floats=numbers, ints=[300] * len(numbers)))], initializer=[external("w")])
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    assert path.stat().st_size > 15 << 20
    with path.open("rb") as file:
        tracemalloc.start()
        started = time.process_time()
        assert read_onnx(file).external_data == ("w",)
        seconds = time.process_time() - started
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < 2
    assert most < 4 << 20


def test_operator_sets_are_written_as_they_are_read() -> None:
    opsets = {"ai.onnx": 28, "ai.onnx.ml": 5, "com.example": 1}
    assert parse_opsets(OnnxInfo(ir_version=14, opsets=opsets).opsets_text) == opsets
    assert parse_opsets("ai.onnx.ml:5, ai.onnx:28") == {"ai.onnx.ml": 5, "ai.onnx": 28}
    assert parse_opsets("") == {}
    for text in ("x", "1,2", ",", "1,", "a:", ":1", "-1", "a b:1", "1.5", "28,ai.onnx:28"):
        with pytest.raises(ValueError, match="expected operator sets like"):
            parse_opsets(text)
