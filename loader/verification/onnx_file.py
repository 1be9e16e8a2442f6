"""Just enough of the ONNX format to tell a model from anything else, and to find the files that hold its weights.

An ONNX file is one protobuf message, `ModelProto` of onnx.proto. This walks its wire format and goes into only those
fields that can lead to a tensor, so that it needs neither the onnx package nor memory for the weights.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_MAX_DEPTH = 200
_MAX_LOCATIONS = 10_000
_MAX_TEXT = 4096

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# For each message of onnx.proto, the fields that lead towards a TensorProto.
_MODEL = "ModelProto"
_TENSOR = "TensorProto"
_PATHS = {
    _MODEL: {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR, 6: "GraphProto", 10: _TENSOR, 11: "GraphProto", 22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
}  # fmt: skip
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET_IMPORT = 1, 7, 8
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_DATA_LOCATION_EXTERNAL = 1
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def external_data_locations(path: Path) -> list[str]:
    """Return the normal, relative paths of the model's external data files, each once, in order of appearance.

    Raises:
        ValueError: the file is not an ONNX model, or one of the paths leaves the model's directory.
    """
    with path.open("rb") as file:
        walk = _Walk(file, path.stat().st_size)
        walk.model()
    return list(dict.fromkeys(_relative(location) for location in walk.locations))


def _relative(location: str) -> str:
    path = PurePosixPath(location)
    name = location
    while name.startswith("./"):
        name = name[2:]
    if (
        not path.parts
        or name != str(path)  # ONNX Runtime does not map sub//w to the file sub/w
        or path.is_absolute()
        or any(part.startswith(".") for part in path.parts)
        or any(character in "\\:" or not character.isprintable() for character in location)
    ):
        raise ValueError(
            f"it keeps weights in {location!r}, expected a relative path inside the model's directory, without hidden "
            "names, colons, backslashes, and slashes or dots that say nothing"
        )
    return str(path)


class _Walk:
    """One pass over a file of `size` bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.locations: dict[str, None] = {}

    def model(self) -> None:
        seen = set()
        for field, wire, value in self._fields(self._size):
            if field == _MODEL_IR_VERSION and not (wire == _VARINT and value > 0):
                raise ValueError("its IR version is not a positive number")
            seen.add(field)
            if wire == _LENGTH:
                self._enter(_MODEL, field, value, 1)
        missing = {_MODEL_IR_VERSION: "IR version", _MODEL_GRAPH: "graph", _MODEL_OPSET_IMPORT: "operator set"}
        if absent := [name for field, name in missing.items() if field not in seen]:
            raise ValueError(f"it has no {' and no '.join(absent)}")

    def _enter(self, message: str, field: int, end: int, depth: int) -> None:
        """Walk the field that ends at `end` if it leads towards a tensor, else jump over it."""
        inner = _PATHS[message].get(field)
        if inner is None:
            self._file.seek(end)
        elif inner == _TENSOR:
            self._tensor(end)
        elif depth == _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        else:
            for inner_field, wire, value in self._fields(end):
                if wire == _LENGTH:
                    self._enter(inner, inner_field, value, depth + 1)

    def _tensor(self, end: int) -> None:
        location = ""
        external = False
        for field, wire, value in self._fields(end):
            if field == _TENSOR_EXTERNAL_DATA and wire == _LENGTH:
                entry = {number: self._text(stop) for number, kind, stop in self._fields(value) if kind == _LENGTH}
                if entry.get(_ENTRY_KEY) == "location":
                    location = entry.get(_ENTRY_VALUE, "")
            elif field == _TENSOR_DATA_LOCATION and wire == _VARINT:
                external = value == _DATA_LOCATION_EXTERNAL
            elif wire == _LENGTH:
                self._file.seek(value)
        if external:
            self.locations[location] = None
            if len(self.locations) > _MAX_LOCATIONS:
                raise ValueError(f"it keeps its weights in more than {_MAX_LOCATIONS} files")

    def _text(self, end: int) -> str:
        length = end - self._file.tell()
        if length > _MAX_TEXT:
            raise ValueError(f"the name of one of its files has {length} bytes")
        try:
            return self._file.read(length).decode()
        except UnicodeDecodeError:
            raise ValueError("the name of one of its files is not UTF-8") from None

    def _fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, wire type and value of each field up to `end`; the value of a long one is where it ends.

        Whoever takes a long field must leave the file at its end.
        """
        file = self._file
        while (position := file.tell()) < end:
            tag = self._varint()
            field, wire = tag >> 3, tag & 7
            value = 0
            if wire == _VARINT:
                value = self._varint()
            elif wire == _LENGTH:
                length = self._varint()
                value = file.tell() + length
                if value > end:
                    raise ValueError(f"it breaks off, or is no protobuf, at byte {position}")
            elif wire == _FIXED64:
                file.seek(8, 1)
            elif wire == _FIXED32:
                file.seek(4, 1)
            else:
                raise ValueError(f"it is no protobuf at byte {position}")
            if field == 0:
                raise ValueError(f"it is no protobuf at byte {position}")
            yield field, wire, value
        if position > end:
            raise ValueError(f"it breaks off, or is no protobuf, at byte {end}")

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._file.read(1)
            if not byte:
                raise ValueError("it breaks off in the middle of a number")
            value |= (byte[0] & 0x7F) << shift
            if not byte[0] & 0x80:
                return value
        raise ValueError(f"it is no protobuf at byte {self._file.tell()}")
