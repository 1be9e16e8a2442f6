"""The nodes of an ONNX file, which ONNX Runtime does not show: the operator of an output, class names, categories.

The file is one protobuf message, `ModelProto` of onnx.proto. ONNX Runtime has accepted it before this reads it, so
anything unexpected here means that nothing is found; nothing in a file raises an error.
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

_MAX_FIELDS = 400_000  # about half a second in Python; a network of a thousand layers has a tenth
_MAX_STEPS = 10_000
_ML = "ai.onnx.ml"
# Operators that give the values of their first input as they are, perhaps in another type or shape.
_SAME_VALUES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
# Of a column of one value, these can only choose that one.
_SELECTORS = frozenset({"ArrayFeatureExtractor", "Gather"})

Span = tuple[int, int]
Category = str | int


class Operator(NamedTuple):
    """An operator by its name and domain; the domain of ONNX's own operators is empty."""

    kind: str
    domain: str


class _Node(NamedTuple):
    operator: Operator
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Sequence[Span]


class _UnreadableError(ValueError):
    """Bytes that this reader cannot follow, or too many of them."""


class Graph:
    """The main graph of an ONNX file.

    Args:
        content: the file; it is read again when attributes are requested.
        nodes: the nodes of the graph.
        initializers: where the initializers are in the content.
    """

    def __init__(self, content: bytes, nodes: Sequence[_Node], initializers: Sequence[Span]) -> None:
        self._content = content
        self._nodes = nodes
        self._initializers = initializers
        self._makers = {output: node for node in nodes for output in node.outputs if output}

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Return the graph of a file; an empty one where the file cannot be followed."""
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

    def maker(self, output: str) -> Operator | None:
        """Return the operator that computes an output's values; None if that is unknown."""
        node = self._computing(output)
        return node.operator if node else None

    def is_behind(self, output: str, domain: str, kinds: Collection[str]) -> bool:
        """Return whether a node of one of these operators takes part in computing an output."""
        nodes = islice(self._behind([output]), _MAX_STEPS)
        return any(node.operator.domain == domain and node.operator.kind in kinds for node in nodes)

    def class_names(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Return the names that the nearest operator behind these outputs gives its classes; empty if none does."""
        try:
            for node in islice(self._behind(outputs), _MAX_STEPS):
                if names := self._names_in(node):
                    return names
        except _UnreadableError:
            pass
        return ()

    def categories(self, column: str) -> tuple[Category, ...]:
        """Return the values that the encoders of an input list, in their order; empty if they list none.

        Args:
            column: an input that takes one value per row.
        """
        try:
            listed = [self._categories_in(node) for node in islice(self._consuming(column), _MAX_STEPS)]
        except _UnreadableError:
            return ()
        first, *others = [categories for categories in listed if categories] or [()]
        return tuple(category for category in first if all(category in other for other in others))

    def _computing(self, value: str) -> _Node | None:
        """Return the node that computes a value, beyond those that only pass it on."""
        for _ in range(_MAX_STEPS):
            node = self._makers.get(value)
            if node is None or node.operator.kind not in _SAME_VALUES or not node.inputs:
                return node
            value = node.inputs[0]
        return None

    def _behind(self, values: Sequence[str]) -> Iterator[_Node]:
        """Yield the nodes that these values are made by, the nearest first, each once."""
        seen: set[str] = set()
        waiting = list(values)
        while waiting:
            following: list[str] = []
            for value in waiting:
                if value in seen:
                    continue
                seen.add(value)
                node = self._makers.get(value)
                if node:
                    seen.update(node.outputs)
                    following += node.inputs
                    yield node
            waiting = following

    def _consuming(self, column: str) -> Iterator[_Node]:
        """Yield the nodes that take a column's values, beyond those that only pass them on."""
        same = {column}
        for node in self._nodes:  # in an order in which no node takes what a later one makes
            if node.inputs and node.inputs[0] in same:
                if node.operator.kind in _SAME_VALUES | _SELECTORS:
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
        # The names of the classes, chosen from by the index of the most probable one.
        if node.operator.kind in _SELECTORS and node.inputs:
            return self._initializer(node.inputs[0])
        return ()

    def _categories_in(self, node: _Node) -> tuple[Category, ...]:
        if node.operator.domain != _ML:
            return ()
        match node.operator.kind:
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
        """Return the strings in an initializer; empty if it has none."""
        reader = _Reader(self._content)
        for span in self._initializers:
            if any(reader.text(found) == name for found in reader.spans(span, _TENSOR_NAME)):
                return tuple(map(reader.text, reader.spans(span, _TENSOR_STRINGS)))
        return ()

    def _attribute(self, reader: "_Reader", node: _Node, name: str) -> Span:
        """Return where an attribute of a node is; an empty place if the node has none of this name."""
        for span in node.attributes:
            # The first field is nearly always the name; the others can be as long as a forest.
            if any(reader.text(found) == name for found in islice(reader.spans(span, _ATTRIBUTE_NAME), 1)):
                return span
        return (0, 0)


class _Reader:
    """Reads protobuf fields of bytes, up to a number of them."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _MAX_FIELDS

    def fields(self, span: Span) -> Iterator[tuple[int, int, Span]]:
        """Yield number, wire type and place of each field of the message in a span; a varint's place is its value.

        Raises:
            _UnreadableError: the bytes are not such a message, or have too many fields.
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
        """Yield the places of the fields with a number whose length is given."""
        return (place for found, wire, place in self.fields(span) if found == number and wire == _LENGTH)

    def integers(self, span: Span, number: int) -> Iterator[int]:
        """Yield the integers of a repeated field, packed or not."""
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
        """Return the number at a position, and the position after it."""
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
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_OP_TYPE: [], _NODE_DOMAIN: []}
    attributes: list[Span] = []
    for number, wire, place in reader.fields(span):
        if wire == _LENGTH and number in texts:
            texts[number].append(reader.text(place))
        elif wire == _LENGTH and number == _NODE_ATTRIBUTE:
            attributes.append(place)
    kind, domain = ("".join(texts[number][-1:]) for number in (_NODE_OP_TYPE, _NODE_DOMAIN))
    operator = Operator(kind, "" if domain == "ai.onnx" else domain)
    return _Node(operator, texts[_NODE_INPUT], texts[_NODE_OUTPUT], attributes)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
