"""Rows of a model with several inputs in JSON: `{"data": [{"age": 31, "sex": "female"}, ...]}`."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array, Columns
from model_server.protocols.json_body import check_every_name, check_names, check_only_field, read_document
from model_server.protocols.json_rows import JsonRows

_FEW_NUMBERS = 64  # up to here, Python finds the largest more quickly than numpy
_TYPES = {"f": float, "i": int, "u": int, "b": bool, "O": str}


def make_rows_parser(spec: RowSpec | ColumnsSpec, field: str) -> "JsonRows | JsonColumns":
    """Return what reads request bodies with rows of a model in that field."""
    return JsonColumns(spec, field) if isinstance(spec, ColumnsSpec) else JsonRows(spec, field)


class JsonColumns:
    """Reads request bodies with rows of one model.

    msgspec reads a body into rows of the right types at once. Whatever it does not take (which may still be valid: 5.0
    for a whole number, 1 for a boolean) is read again, slowly, by `ColumnsSpec`, which says what is wrong.

    Args:
        spec: names, types and shapes of the inputs.
        field: the field of the body that the rows are in.
    """

    def __init__(self, spec: ColumnsSpec, field: str = "data") -> None:
        self._spec = spec
        self._field = field
        self._objects, self._lists = _decoders(spec, field)
        self._width = len(spec.inputs)
        self._blocks = _blocks(spec)

    def parse(self, body: bytes) -> Columns:
        """Return the rows of a body with no other field.

        Raises:
            BodyError: the body is not such a document.
            InvalidRowsError: its rows are not rows that the model takes.
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
        """Return the rows of a body that surely are valid, or None."""
        # After the bracket of the rows, rows that are objects begin with a brace, and lists have none.
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
    """Columns of one type and shape, which are read into one array.

    Args:
        value: type and shape of their values.
        is_column: whether the model takes each value as a row of one.

    Attributes:
        value: as above.
        names: their names.
        indices: their indices among the inputs.
    """

    def __init__(self, value: RowSpec, *, is_column: bool) -> None:
        self.value = value
        self.names: list[str] = []
        self.indices: list[int] = []
        self._is_column = is_column
        self._dtype = np.dtype(np.float64) if value.dtype.kind == "f" else value.dtype

    def array(self, columns: Sequence[Sequence[Any]]) -> Array | None:
        """Return the columns as an array of shape (columns, N, *row_shape), or None if they may not all fit.

        Args:
            columns: their values, of the right Python types.
        """
        try:
            # As float64 first: a number beyond a smaller type would become infinity, with a warning.
            array = np.array(columns, self._dtype)
        except (OverflowError, ValueError):  # an integer beyond its type, or rows of several lengths
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
    """Return one block for all columns of one type that take one value, and one for each other."""
    blocks: list[_Block] = []
    of_type: dict[tuple[np.dtype[Any], bool], _Block] = {}
    for index, (name, value) in enumerate(spec.values.items()):
        is_column = spec.inputs[name].row_shape == (1,)
        block = None if value.row_shape else of_type.get((value.dtype, is_column))
        if block is None:
            block = _Block(value, is_column=is_column)
            blocks.append(block)
            if not value.row_shape:
                of_type[value.dtype, is_column] = block
        block.names.append(name)
        block.indices.append(index)
    return blocks


def _decoders(
    spec: ColumnsSpec, field: str
) -> tuple[msgspec.json.Decoder[Any] | None, msgspec.json.Decoder[Any] | None]:
    """Return what reads bodies whose rows are objects, and what reads those whose rows are lists."""
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
        objects = msgspec.json.Decoder(_body_of(row, field))
    except ValueError:  # of a name that has quotes or backslashes
        objects = None
    return objects, msgspec.json.Decoder(_body_of(tuple.__class_getitem__(tuple(types)), field))


def _body_of(row: Any, field: str) -> type[msgspec.Struct]:  # noqa: ANN401 (any type)
    return msgspec.defstruct("Body", [("data", list[row])], forbid_unknown_fields=True, rename={"data": field})
