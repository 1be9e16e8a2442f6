"""A parser for the versions and the external data files of an ONNX model, for the loader and the service.

An ONNX file is one protobuf message, `ModelProto` of onnx.proto. This module parses its wire format and descends only
into fields that can contain a tensor, so it needs neither the onnx package nor memory for the weights. All readers of a
file must find its weights in the same place, so input that protobuf parsers treat differently, or merge, is refused.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from msgspec import Struct

ONNX_DOMAIN = "ai.onnx"

_OPSET_TEXT = re.compile(r"(?:(?P<domain>[^\s:,]+):)?(?P<version>[0-9]{1,9})")

_MAX_DEPTH = 200
_MAX_LOCATIONS = 10_000
_MAX_TEXT = 4096
_WINDOW = 1 << 16
_LONGEST_VARINT = 10

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}

_MODEL, _OPSET, _TENSOR, _ENTRY, _ATTRIBUTE = (
    "ModelProto",
    "OperatorSetIdProto",
    "TensorProto",
    "StringStringEntryProto",
    "AttributeProto",
)
_GRAPH, _NODE, _SPARSE = "GraphProto", "NodeProto", "SparseTensorProto"

# The fields of each parsed message: first the singular fields, then the repeated ones. Each value is the field's wire
# type, or the message to parse in it.
_Kinds = dict[int, int | str]
_FIELDS: dict[str, tuple[_Kinds, _Kinds]] = {
    _MODEL: (
        {1: _VARINT, 2: _LENGTH, 3: _LENGTH, 4: _LENGTH, 5: _VARINT, 6: _LENGTH, 7: _GRAPH},
        {8: _OPSET, 14: _LENGTH, 20: "TrainingInfoProto", 25: "FunctionProto", 26: _LENGTH},
    ),
    _OPSET: ({1: _LENGTH, 2: _VARINT}, {}),
    "TrainingInfoProto": ({1: _GRAPH, 2: _GRAPH}, {3: _LENGTH, 4: _LENGTH}),
    "FunctionProto": (
        {1: _LENGTH, 8: _LENGTH, 10: _LENGTH, 13: _LENGTH},
        {4: _LENGTH, 5: _LENGTH, 6: _LENGTH, 7: _NODE, 9: _OPSET, 11: _ATTRIBUTE, 12: _LENGTH, 14: _LENGTH},
    ),
    _GRAPH: (
        {2: _LENGTH, 10: _LENGTH},
        {1: _NODE, 5: _TENSOR, 11: _LENGTH, 12: _LENGTH, 13: _LENGTH, 14: _LENGTH, 15: _SPARSE, 16: _LENGTH},
    ),
    _NODE: (
        {3: _LENGTH, 4: _LENGTH, 6: _LENGTH, 7: _LENGTH, 8: _LENGTH},
        {1: _LENGTH, 2: _LENGTH, 5: _ATTRIBUTE, 9: _LENGTH, 10: _LENGTH},
    ),
    _ATTRIBUTE: (
        {
            1: _LENGTH, 2: _FIXED32, 3: _VARINT, 4: _LENGTH, 5: _TENSOR, 6: _GRAPH, 13: _LENGTH, 14: _LENGTH,
            20: _VARINT, 21: _LENGTH, 22: _SPARSE,
        },
        {7: _FIXED32, 8: _VARINT, 9: _LENGTH, 10: _TENSOR, 11: _GRAPH, 15: _LENGTH, 23: _SPARSE},
    ),
    _SPARSE: ({1: _TENSOR, 2: _TENSOR}, {3: _VARINT}),
    _TENSOR: (
        {2: _VARINT, 3: _LENGTH, 8: _LENGTH, 9: _LENGTH, 12: _LENGTH, 14: _VARINT},
        {
            1: _VARINT, 4: _FIXED32, 5: _VARINT, 6: _LENGTH, 7: _VARINT, 10: _FIXED64, 11: _VARINT, 13: _ENTRY,
            16: _LENGTH,
        },
    ),
    _ENTRY: ({1: _LENGTH, 2: _LENGTH}, {}),
}  # fmt: skip
_IR_VERSION, _PRODUCER_NAME, _PRODUCER_VERSION, _MODEL_GRAPH, _OPSET_IMPORT = 1, 2, 3, 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_DEFAULT, _EXTERNAL = 0, 1
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# A tree ensemble has millions of numbers in its attributes, each in its own field: runs of them are skipped at once.
_RUNS = {
    (_ATTRIBUTE, 7): re.compile(rb"(?:\x3d.{4})+", re.DOTALL),
    (_ATTRIBUTE, 8): re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+"),
}


class OnnxError(ValueError):
    """A file that is not an ONNX model, or that readers could interpret as different models."""


class OnnxInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The format of a model.

    Attributes:
        ir_version: the version of the file format.
        opsets: the version of each operator set by its domain; the default one is `ai.onnx`.
        producer_name: the program that wrote the file; empty if the file does not contain it.
        producer_version: the version of that program; empty if the file does not contain it.
        external_data: normalised relative paths of the external data files, each once, in order of appearance.
    """

    ir_version: int
    opsets: dict[str, int]
    producer_name: str = ""
    producer_version: str = ""
    external_data: tuple[str, ...] = ()

    @property
    def producer(self) -> str:
        """Name and version of the program that wrote the file."""
        return " ".join(filter(None, (self.producer_name, self.producer_version)))

    @property
    def opsets_text(self) -> str:
        """The operator sets in the form of `MAX_OPSET`: `28,ai.onnx.ml:5`."""
        ordered = sorted(self.opsets.items(), key=lambda item: (item[0] != ONNX_DOMAIN, item[0]))
        return ",".join(str(version) if domain == ONNX_DOMAIN else f"{domain}:{version}" for domain, version in ordered)


def read_onnx(file: BinaryIO) -> OnnxInfo:
    """Return the format of the model in a seekable file, with bounded memory for any size.

    Raises:
        OnnxError: the file is not an ONNX model, or one of its external data files is outside the model's directory.
        OSError: the file cannot be read.
    """
    return _Parser(file).model()


def parse_opsets(text: str) -> dict[str, int]:
    """Return the versions in a string like `28,ai.onnx.ml:5` by domain; the default domain is `ai.onnx`.

    Raises:
        ValueError: the string does not have this form.
    """
    opsets: dict[str, int] = {}
    for entry in text.split(",") if text else ():
        match = _OPSET_TEXT.fullmatch(entry.strip())
        domain = (match["domain"] or ONNX_DOMAIN) if match else ""
        if not match or domain in opsets:
            raise ValueError("expected operator sets like 28,ai.onnx.ml:5, each domain once")
        opsets[domain] = int(match["version"])
    return opsets


def _relative(location: str) -> str:
    path = PurePosixPath(location)
    name = location
    while name.startswith("./"):
        name = name[2:]
    if (
        not path.parts
        or name != str(path)  # ONNX Runtime does not normalise sub//w to sub/w
        or path.is_absolute()
        or any(part.startswith(".") for part in path.parts)
        # In ONNX Runtime, a name with asterisks marks weights in memory.
        or any(character in "\\:*" or not character.isprintable() for character in location)
    ):
        raise OnnxError(
            f"it keeps weights in {location!r}, expected a relative path inside the model's directory, without hidden "
            "names, asterisks, colons, backslashes, empty parts and parts that are a dot"
        )
    return str(path)


class _Parser:
    """A parser of one file, in one pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._position = 0
        self._window = b""
        self._window_start = 0
        self._locations: dict[str, None] = {}
        self._opsets: dict[str, int] = {}

    def model(self) -> OnnxInfo:
        ir_version = 0
        producer = {_PRODUCER_NAME: "", _PRODUCER_VERSION: ""}
        seen = set()
        for field, value, inner in self._fields(_MODEL, self._size):
            seen.add(field)
            if field == _IR_VERSION:
                ir_version = _positive(value, "IR version")
            elif field in producer:
                producer[field] = self._text(value, "producer")
            elif inner:
                self._enter(inner, value, 1)
        missing = {_IR_VERSION: "IR version", _MODEL_GRAPH: "graph", _OPSET_IMPORT: "operator set"}
        if absent := [name for field, name in missing.items() if field not in seen]:
            raise OnnxError(f"it has no {' and no '.join(absent)}")
        return OnnxInfo(
            ir_version=ir_version,
            opsets=self._opsets,
            producer_name=producer[_PRODUCER_NAME],
            producer_version=producer[_PRODUCER_VERSION],
            external_data=tuple(dict.fromkeys(map(_relative, self._locations))),
        )

    def _enter(self, message: str, end: int, depth: int) -> None:
        """Parse a message that ends at `end`."""
        if message == _TENSOR:
            self._tensor(end)
        elif message == _OPSET:
            self._opset(end)
        elif depth == _MAX_DEPTH:
            raise OnnxError(f"it is nested more than {_MAX_DEPTH} levels deep")
        else:
            for _, value, inner in self._fields(message, end):
                if inner:
                    self._enter(inner, value, depth + 1)

    def _opset(self, end: int) -> None:
        domain, version = "", 0
        for field, value, _ in self._fields(_OPSET, end):
            if field == _OPSET_DOMAIN:
                domain = self._text(value, "domain of an operator set")
            elif field == _OPSET_VERSION:
                version = _positive(value, "operator set's version")
        domain = domain or ONNX_DOMAIN
        self._opsets[domain] = max(version, self._opsets.get(domain, 0))
        if len(self._opsets) > _MAX_LOCATIONS:
            raise OnnxError(f"it has operator sets of more than {_MAX_LOCATIONS} domains")

    def _tensor(self, end: int) -> None:
        found: list[str] = []
        external = False
        for field, value, _ in self._fields(_TENSOR, end):
            if field == _EXTERNAL_DATA:
                key, text = self._entry(value)
                if key == "location":
                    found.append(text)
            elif field == _DATA_LOCATION:
                if value not in (_DEFAULT, _EXTERNAL):
                    raise OnnxError(f"the data location of one of its tensors is {value}, expected 0 or 1")
                external = value == _EXTERNAL
        if len(found) > 1:
            raise OnnxError("one of its tensors has more than one location of external data")
        if external:
            self._locations["".join(found)] = None
            if len(self._locations) > _MAX_LOCATIONS:
                raise OnnxError(f"it keeps its weights in more than {_MAX_LOCATIONS} files")

    def _entry(self, end: int) -> tuple[str, str]:
        entry = {field: self._text(value, "name of one of its files") for field, value, _ in self._fields(_ENTRY, end)}
        return entry.get(_ENTRY_KEY, ""), entry.get(_ENTRY_VALUE, "")

    def _text(self, end: int, what: str) -> str:
        length = end - self._position
        if length > _MAX_TEXT:
            raise OnnxError(f"the {what} has {length} bytes, expected at most {_MAX_TEXT}")
        start = self._fill_window(length)
        self._position = end
        try:
            return self._window[start : start + length].decode()
        except UnicodeDecodeError:
            raise OnnxError(f"the {what} is not UTF-8") from None

    def _fields(self, message: str, end: int) -> Iterator[tuple[int, int, str]]:
        """Yield the number, the value and the message of each known field up to `end`.

        For a length-delimited field the value is its end, and the position is its start; the caller may move it.
        The message is empty for fields that are not parsed further. Fields that onnx.proto does not have are skipped.
        """
        once, repeated = _FIELDS[message]
        seen = set()
        while (position := self._position) < end:
            tag = self._varint()
            field, wire = tag >> 3, tag & 7
            if not 0 < tag < 1 << 32 or not field:
                raise OnnxError(f"it is not protobuf at byte {position}")
            value = self._value(wire, position, end)
            kind = once.get(field)
            if kind is not None:
                if field in seen:
                    raise OnnxError(f"field {field} of {message} occurs twice, at byte {position}")
                seen.add(field)
            else:
                kind = repeated.get(field)
            following = value if wire == _LENGTH else self._position
            if kind is not None:
                inner = kind if isinstance(kind, str) else ""
                is_packed = wire == _LENGTH and field in repeated
                if wire != (_LENGTH if inner else kind) and not is_packed:
                    raise OnnxError(f"field {field} of {message} has the wire type {wire}, at byte {position}")
                yield field, value, inner
            self._position = following
            if run := _RUNS.get((message, field)):
                self._skip(run, end)
        if self._position > end:
            raise OnnxError(f"it is truncated, or not protobuf, at byte {end}")

    def _value(self, wire: int, position: int, end: int) -> int:
        """Return the value of a varint, 0 for a fixed-width number, or the end of a length-delimited field."""
        if wire == _VARINT:
            return self._varint()
        if wire == _LENGTH:
            stop = self._varint() + self._position
        elif wire in _SIZES:
            stop = self._position = self._position + _SIZES[wire]
        else:
            raise OnnxError(f"it is not protobuf at byte {position}")
        if stop > end:
            raise OnnxError(f"it is truncated, or not protobuf, at byte {position}")
        return stop if wire == _LENGTH else 0

    def _skip(self, run: re.Pattern[bytes], end: int) -> None:
        start = self._fill_window(1)
        if match := run.match(self._window, start, start + end - self._position):
            self._position += match.end() - start

    def _varint(self) -> int:
        start = self._fill_window(_LONGEST_VARINT)
        value = 0
        for count, byte in enumerate(self._window[start : start + _LONGEST_VARINT]):
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80:  # noqa: PLR2004 (the continuation bit)
                if value >= 1 << 64:
                    break
                self._position += count + 1
                return value
        if self._size - self._position < _LONGEST_VARINT:
            raise OnnxError("it is truncated in the middle of a number")
        raise OnnxError(f"it is not protobuf at byte {self._position}")

    def _fill_window(self, count: int) -> int:
        """Fill the window with `count` bytes, or the rest of the file, and return the position in the window."""
        start = self._position - self._window_start
        if start < 0 or start + count > len(self._window):
            self._file.seek(self._position)
            self._window = self._file.read(_WINDOW)
            self._window_start = self._position
            start = 0
        return start


def _positive(value: int, what: str) -> int:
    if not 0 < value < 1 << 31:
        raise OnnxError(f"its {what} is not a positive 31-bit number")
    return value
