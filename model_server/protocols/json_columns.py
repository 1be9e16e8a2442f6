"""JSON rows of a model with several inputs: `{"data": [{"age": 31, "sex": "female"}, ...]}`."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array, Columns
from model_server.protocols.json_body import check_every_name, check_names, check_only_field, read_document
from model_server.protocols.json_rows import JsonRows

_FEW_NUMBERS = 64  # up to this number of values, min() and max() are faster than numpy
_TYPES = {"f": float, "i": int, "u": int, "b": bool, "O": str}


def make_rows_parser(spec: RowSpec | ColumnsSpec, field: str) -> "JsonRows | JsonColumns":
    """Return the parser for request bodies with rows of a model in this field."""
    return JsonColumns(spec, field) if isinstance(spec, ColumnsSpec) else JsonRows(spec, field)


class JsonColumns:
    """Parser of request bodies with rows of a model with several inputs.

    msgspec decodes a body directly to rows of the right types. A body that it rejects may still be valid, with 5.0 for
    an integer or 1 for a boolean: `ColumnsSpec` then validates it more slowly and reports errors.

    Args:
        spec: names, types and shapes of the inputs.
        field: the body field with the rows.
    """

    def __init__(self, spec: ColumnsSpec, field: str = "data") -> None:
        self._spec = spec
        self._field = field
        self._objects, self._lists = _decoders(spec, field)
        self._width = len(spec.inputs)
        self._blocks = _blocks(spec)

    def parse(self, body: bytes) -> Columns:
        """Return the rows of a body that has no other field.

        Raises:
            BodyError: the body is not such a document.
            InvalidRowsError: the rows are invalid for the model.
        """
        columns = self._parse_typed(body)
        if columns is None:
            document = read_document(body, self._field)
            check_only_field(document, self._field)
            columns = self._spec.rows(document[self._field])
            check_every_name(body, self._field)
        return columns

    def parse_with_fields(self, body: bytes) -> tuple[Columns, dict[str, Any]]:
        """Return the rows, as `parse` does, and the other fields of the body."""
        document = read_document(body, self._field)
        columns = self._spec.rows(document.pop(self._field))
        check_every_name(body, self._field)
        return columns, document

    def _parse_typed(self, body: bytes) -> Columns | None:
        """Return the rows of a body, or None if the fast path cannot prove that they are valid."""
        # Objects have a brace after the first bracket; lists have none, unless a string holds one.
        is_lists = body.find(b"{", body.find(b"[")) < 0
        decoder = self._lists if is_lists else self._objects
        if decoder is None:
            return None
        try:
            rows = decoder.decode(body).data
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return None
        if not rows:
            return None
        by_column = list(zip(*(rows if is_lists else map(msgspec.structs.astuple, rows)), strict=True))
        arrays: dict[str, Array] = {}
        strings = 1 + (0 if is_lists else len(rows) * self._width)
        for block in self._blocks:
            array = block.array([by_column[index] for index in block.indices])
            if array is None:
                return None
            if block.value.is_text:
                strings += array.size
            arrays.update(zip(block.names, array, strict=True))
        columns = self._spec.to_columns(arrays)
        check_names(body, self._field, strings)
        return columns


class _Block:
    """Columns of the same type and shape, which are converted to one array.

    Args:
        value: type and shape of the values.
        is_column: whether the model takes each value as a row of length one.

    Attributes:
        value: as above.
        names: names of the columns.
        indices: indices of the columns among the inputs.
    """

    def __init__(self, value: RowSpec, *, is_column: bool) -> None:
        self.value = value
        self.names: list[str] = []
        self.indices: list[int] = []
        self._is_column = is_column
        self._dtype = np.dtype(np.float64) if value.dtype.kind == "f" else value.dtype

    def array(self, columns: Sequence[Sequence[Any]]) -> Array | None:
        """Return the columns as an array of shape (columns, N, *row_shape), or None if a value may not fit.

        Args:
            columns: the values, of the right Python types.
        """
        try:
            # Convert to float64 first: in a smaller type, a number out of range becomes infinity, with a warning.
            array = np.array(columns, self._dtype)
        except (OverflowError, ValueError):  # an integer out of range, or rows of different lengths
            return None
        if self.value.row_shape and not self.value.fits(array.shape[1:]):
            return None
        if self._dtype is not self.value.dtype:
            smallest, largest = self.value.limits
            if array.size <= _FEW_NUMBERS:
                fit = smallest <= min(array.flat) and max(array.flat) <= largest
            else:
                fit = bool(array.min() >= smallest and array.max() <= largest)
            if not fit:
                return None
            array = array.astype(self.value.dtype)
        return array.reshape(*array.shape, 1) if self._is_column else array


def _blocks(spec: ColumnsSpec) -> list[_Block]:
    """Return a block for each type of single-value columns, and a block for each other column."""
    blocks: list[_Block] = []
    by_type: dict[tuple[np.dtype[Any], bool], _Block] = {}
    for index, (name, value) in enumerate(spec.values.items()):
        is_column = spec.inputs[name].row_shape == (1,)
        block = None if value.row_shape else by_type.get((value.dtype, is_column))
        if block is None:
            block = _Block(value, is_column=is_column)
            blocks.append(block)
            if not value.row_shape:
                by_type[value.dtype, is_column] = block
        block.names.append(name)
        block.indices.append(index)
    return blocks


def _decoders(
    spec: ColumnsSpec, field: str
) -> tuple[msgspec.json.Decoder[Any] | None, msgspec.json.Decoder[Any] | None]:
    """Return the decoders for bodies whose rows are objects and for bodies whose rows are lists.

    The decoder for objects is None if msgspec does not support an input name.
    """
    types: list[Any] = []
    for value in spec.values.values():
        kind: Any = _TYPES[value.dtype.kind]
        for _ in value.row_shape:
            kind = list[kind]
        types.append(kind)
    fields = [f"column_{index}" for index in range(len(types))]
    try:
        row = msgspec.defstruct(
            "Row",
            list(zip(fields, types, strict=True)),
            forbid_unknown_fields=True,
            rename=dict(zip(fields, spec.inputs, strict=True)),
        )
        objects = msgspec.json.Decoder(_body_type(row, field))
    except ValueError:  # a name has quotes or backslashes
        objects = None
    return objects, msgspec.json.Decoder(_body_type(tuple.__class_getitem__(tuple(types)), field))


def _body_type(row: Any, field: str) -> type[msgspec.Struct]:  # noqa: ANN401 (any type)
    return msgspec.defstruct("Body", [("data", list[row])], forbid_unknown_fields=True, rename={"data": field})
