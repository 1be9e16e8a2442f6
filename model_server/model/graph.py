"""Reads the nodes of an ONNX file, which ONNX Runtime does not expose: operators, class names, categories.

The file is one protobuf message, `ModelProto` of onnx.proto. ONNX Runtime has already accepted the file, so unexpected
content never raises an error here: the methods then find nothing.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Self

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS, _ATTRIBUTE_STRINGS, _ATTRIBUTE_TENSOR = 1, 8, 9, 5
_TENSOR_STRINGS, _TENSOR_NAME = 6, 8

_MAX_FIELDS = 400_000  # about half a second in Python; a network of a thousand layers has a tenth of that
_MAX_STEPS = 10_000
_ML = "ai.onnx.ml"
# Operators that pass on the values of their first input, possibly with another type or shape.
_SAME_VALUES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
# Operators that select values; from a column with a single value per row they can only select that value.
_SELECTORS = frozenset({"ArrayFeatureExtractor", "Gather"})

Span = tuple[int, int]
Category = str | int


class Operator(NamedTuple):
    """Operator type and domain; the domain of ONNX's standard operators is empty."""

    op_type: str
    domain: str


class _Node(NamedTuple):
    operator: Operator
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Sequence[Span]


class _UnreadableError(ValueError):
    """The content is malformed or has too many fields."""


class Graph:
    """The main graph of an ONNX file.

    Args:
        content: the file content; attributes are parsed from it on demand.
        nodes: the nodes of the graph.
        initializers: the spans of the initializers in the content.
    """

    def __init__(self, content: bytes, nodes: Sequence[_Node], initializers: Sequence[Span]) -> None:
        self._content = content
        self._nodes = nodes
        self._initializers = initializers
        self._sources = {output: node for node in nodes for output in node.outputs if output}

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Return the graph of a file; an empty graph if the file cannot be parsed."""
        nodes: list[_Node] = []
        initializers: list[Span] = []
        try:
            reader = _Reader(content)
            for graph in reader.spans((0, len(content)), _MODEL_GRAPH):
                for number, _, span in reader.fields(graph):
                    if number == _GRAPH_NODE:
                        nodes.append(_read_node(reader, span))
                    elif number == _GRAPH_INITIALIZER:
                        initializers.append(span)
        except _UnreadableError:
            return cls(b"", (), ())
        return cls(content, nodes, initializers)

    def source_operator(self, output: str) -> Operator | None:
        """Return the operator that computes an output's values; None if that is unknown."""
        node = self._source_node(output)
        return node.operator if node else None

    def depends_on(self, output: str, domain: str, kinds: Collection[str]) -> bool:
        """Return whether an output depends on a node with one of these operators."""
        nodes = islice(self._ancestors([output]), _MAX_STEPS)
        return any(node.operator.domain == domain and node.operator.op_type in kinds for node in nodes)

    def class_names(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Return the class names in the nearest operator that these outputs depend on; empty if there are none."""
        try:
            for node in islice(self._ancestors(outputs), _MAX_STEPS):
                if names := self._names_in(node):
                    return names
        except _UnreadableError:
            pass
        return ()

    def categories(self, column: str) -> tuple[Category, ...]:
        """Return the values that the encoders of an input know, in their order; empty if they list none.

        Args:
            column: name of an input that takes a single value per row.
        """
        try:
            listed = [self._categories_in(node) for node in islice(self._consumers(column), _MAX_STEPS)]
        except _UnreadableError:
            return ()
        first, *others = [categories for categories in listed if categories] or [()]
        return tuple(category for category in first if all(category in other for other in others))

    def _source_node(self, value: str) -> _Node | None:
        """Return the node that computes a value, skipping nodes that only pass it on."""
        for _ in range(_MAX_STEPS):
            node = self._sources.get(value)
            if node is None or node.operator.op_type not in _SAME_VALUES or not node.inputs:
                return node
            value = node.inputs[0]
        return None

    def _ancestors(self, values: Sequence[str]) -> Iterator[_Node]:
        """Yield the nodes that these values depend on, nearest first, each once."""
        seen: set[str] = set()
        waiting = list(values)
        while waiting:
            following: list[str] = []
            for value in waiting:
                if value in seen:
                    continue
                seen.add(value)
                node = self._sources.get(value)
                if node:
                    seen.update(node.outputs)
                    following += node.inputs
                    yield node
            waiting = following

    def _consumers(self, column: str) -> Iterator[_Node]:
        """Yield the nodes that take a column's values, skipping nodes that only pass them on."""
        same = {column}
        for node in self._nodes:  # ONNX sorts them topologically
            if node.inputs and node.inputs[0] in same:
                if node.operator.op_type in _SAME_VALUES | _SELECTORS:
                    same.update(node.outputs)
                else:
                    yield node

    def _names_in(self, node: _Node) -> tuple[str, ...]:
        if names := self._strings(node, "classlabels_strings"):
            return names
        if node.operator == ("LabelEncoder", _ML):
            names = self._strings(node, "values_strings")
            is_by_index = self._integers(node, "keys_int64s") == tuple(range(len(names)))
            return names if is_by_index else ()
        # The first input is the list of class names; the index of the most probable class selects from it.
        if node.operator.op_type in _SELECTORS and node.inputs:
            return self._initializer(node.inputs[0])
        return ()

    def _categories_in(self, node: _Node) -> tuple[Category, ...]:
        if node.operator.domain != _ML:
            return ()
        match node.operator.op_type:
            case "OneHotEncoder" | "CategoryMapper":
                return self._strings(node, "cats_strings") or self._integers(node, "cats_int64s")
            case "LabelEncoder":
                return (
                    self._strings(node, "keys_strings")
                    or self._integers(node, "keys_int64s")
                    or self._tensor(node, "keys_tensor")
                )
        return ()

    def _strings(self, node: _Node, attribute: str) -> tuple[str, ...]:
        reader = _Reader(self._content)
        span = self._attribute(reader, node, attribute)
        return tuple(map(reader.text, reader.spans(span, _ATTRIBUTE_STRINGS)))

    def _integers(self, node: _Node, attribute: str) -> tuple[int, ...]:
        reader = _Reader(self._content)
        return tuple(reader.integers(self._attribute(reader, node, attribute), _ATTRIBUTE_INTS))

    def _tensor(self, node: _Node, attribute: str) -> tuple[str, ...]:
        reader = _Reader(self._content)
        span = self._attribute(reader, node, attribute)
        return tuple(
            reader.text(text)
            for tensor in reader.spans(span, _ATTRIBUTE_TENSOR)
            for text in reader.spans(tensor, _TENSOR_STRINGS)
        )

    def _initializer(self, name: str) -> tuple[str, ...]:
        """Return the strings in an initializer; empty if there are none."""
        reader = _Reader(self._content)
        for span in self._initializers:
            if any(reader.text(found) == name for found in reader.spans(span, _TENSOR_NAME)):
                return tuple(map(reader.text, reader.spans(span, _TENSOR_STRINGS)))
        return ()

    def _attribute(self, reader: "_Reader", node: _Node, name: str) -> Span:
        """Return the span of a node's attribute; an empty span if the node does not have the attribute."""
        for span in node.attributes:
            # The name is nearly always the first field; the others can be very large, such as the trees of a forest.
            if any(reader.text(found) == name for found in islice(reader.spans(span, _ATTRIBUTE_NAME), 1)):
                return span
        return (0, 0)


class _Reader:
    """Parser of protobuf fields that stops after a maximum number of fields."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _MAX_FIELDS

    def fields(self, span: Span) -> Iterator[tuple[int, int, Span]]:
        """Yield number, wire type and span of each field of the message in a span; a varint has its value as span.

        Raises:
            _UnreadableError: the bytes are not a protobuf message, or it has too many fields.
        """
        position, end = span
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise _UnreadableError
            tag, position = self._varint(position)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, position = self._varint(position)
                yield number, wire, (value, value)
                continue
            if wire == _LENGTH:
                size, position = self._varint(position)
            else:
                size = _FIXED_SIZES.get(wire, end)
            if position + size > end:
                raise _UnreadableError
            yield number, wire, (position, position + size)
            position += size

    def spans(self, span: Span, number: int) -> Iterator[Span]:
        """Yield the spans of the length-delimited fields with this number."""
        return (inner for found, wire, inner in self.fields(span) if found == number and wire == _LENGTH)

    def integers(self, span: Span, number: int) -> Iterator[int]:
        """Yield the integers of a repeated field, whether packed or not."""
        for found, wire, (start, end) in self.fields(span):
            if found == number and wire == _VARINT:
                yield _signed(start)
            elif found == number and wire == _LENGTH:
                yield from self._packed(start, end)

    def _packed(self, position: int, end: int) -> Iterator[int]:
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise _UnreadableError
            value, position = self._varint(position)
            yield _signed(value)

    def text(self, span: Span) -> str:
        """Return the text in a span."""
        start, end = span
        return self._content[start:end].decode(errors="replace")

    def _varint(self, position: int) -> tuple[int, int]:
        """Return the varint at a position, and the position after it."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(self._content):
                break
            byte = self._content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 (the last byte of a number)
                return value, position
        raise _UnreadableError


def _read_node(reader: _Reader, span: Span) -> _Node:
    strings: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_OP_TYPE: [], _NODE_DOMAIN: []}
    attributes: list[Span] = []
    for number, wire, inner in reader.fields(span):
        if wire == _LENGTH and number in strings:
            strings[number].append(reader.text(inner))
        elif wire == _LENGTH and number == _NODE_ATTRIBUTE:
            attributes.append(inner)
    op_type, domain = ("".join(strings[number][-1:]) for number in (_NODE_OP_TYPE, _NODE_DOMAIN))
    operator = Operator(op_type, "" if domain == "ai.onnx" else domain)
    return _Node(operator, strings[_NODE_INPUT], strings[_NODE_OUTPUT], attributes)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
