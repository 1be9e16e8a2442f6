"""JSON rows of a model with one input, and JSON answers: `{"data": [row, ...]}` and `{"prediction": ...}`."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import simdjson
from pydantic_core import to_jsonable_python

from model_server.model.row_spec import EXACT, RowSpec
from model_server.model.rows import Array
from model_server.protocols.json_body import check_every_name, check_names, check_only_field, read_document

Answers = Array | Sequence[Any]

_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_FEW_NUMBERS = 256
_FEW_BYTES = 512  # for larger bodies, simdjson is faster than orjson and a check of each number


class JsonRows:
    """Parser of request bodies with rows of a model with one input.

    Args:
        spec: type and shape of the rows.
        field: the body field with the rows.
    """

    def __init__(self, spec: RowSpec, field: str = "data") -> None:
        self._spec = spec
        self._field = field
        self._types = set() if spec.is_text else {int, float} if spec.dtype.kind == "f" else {int}
        self._row_structure = b""
        for length in reversed(spec.row_shape):
            self._row_structure = b"[" + b",".join([self._row_structure] * (length or 0)) + b"]"

    def parse(self, body: bytes) -> Array:
        """Return the rows of a body that has no other field: an array of shape (N, *row_shape) and the model's dtype.

        Raises:
            BodyError: the body is not such a document.
            InvalidRowsError: the rows are invalid for the model.
        """
        if len(body) > _FEW_BYTES and (rows := self._parse_many(body)) is not None:
            return rows
        document = read_document(body, self._field)
        check_only_field(document, self._field)
        data = document[self._field]
        if self._are_plain(data):
            rows = np.array(data, self._spec.dtype)
            strings = 1
        else:
            rows = self._spec.rows(data)
            strings = 1 + (rows.size if self._spec.is_text else 0) + sum(len(row) for row in data if type(row) is dict)
        check_names(body, self._field, strings)
        return rows

    def parse_with_fields(self, body: bytes) -> tuple[Array, dict[str, Any]]:
        """Return the rows, as `parse` does, and the other fields of the body."""
        document = read_document(body, self._field)
        data = document.pop(self._field)
        rows = self._spec.rows(data)
        if self._spec.names and dict in map(type, data):
            check_every_name(body, self._field)
        return rows, document

    def _are_plain(self, data: object) -> bool:
        """Return whether parsed JSON is a list of valid flat rows; `RowSpec` checks everything else more slowly."""
        width = self._spec.row_size
        if not data or type(data) is not list or not width or len(self._spec.row_shape) != 1:
            return False
        smallest, largest = self._spec.limits
        for row in data:
            if type(row) is not list or len(row) != width or not self._types.issuperset(map(type, row)):
                return False
            if min(row) < smallest or max(row) > largest:
                return False
        return True

    def _parse_many(self, body: bytes) -> Array | None:
        """Return the rows of a body, or None if the fast path cannot prove that they are valid.

        simdjson reads the numbers into one flat array. The brackets and commas of the body show whether they were
        nested correctly: the body has no string except the field name, so all of them are structural.
        """
        if not self._spec.row_size or self._spec.is_text or body.count(b'"') != 2 or not body.isascii():  # noqa: PLR2004
            return None
        try:
            data: Any = simdjson.Parser().parse(body)[self._field]  # type: ignore[index]
            flat = np.frombuffer(data.as_buffer(of_type="d"))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return None
        count, rest = divmod(len(flat), self._spec.row_size)
        if rest or not count or body.translate(None, _NOT_STRUCTURE) != self._structure(count) or not self._fit(flat):
            return None
        return flat.astype(self._spec.dtype).reshape(count, *self._spec.row_shape)

    def read_array(self, text: bytes, count: int) -> Array | None:
        """Return the rows in a JSON array, whose values are flat or nested; None if they may not be `count` valid rows.

        Args:
            text: the array; its strings are not checked yet.
            count: the number of rows.
        """
        size = count * self._spec.row_size
        if size <= 0 or (len(text) > _FEW_BYTES and not self._spec.is_text):
            return self._read_numbers(text, count, size)
        try:
            values = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if type(values) is list and len(values) == count and len(self._spec.row_shape) == 1 and type(values[0]) is list:
            lengths = {len(row) if type(row) is list else None for row in values}
            values = list(chain.from_iterable(values)) if lengths == {self._spec.row_size} else None
        types = {str} if self._spec.is_text else self._types
        if type(values) is not list or len(values) != size or not types.issuperset(map(type, values)):
            return None
        smallest, largest = self._spec.limits
        if not self._spec.is_text and (min(values) < smallest or max(values) > largest):
            return None
        return np.array(values, self._spec.dtype).reshape(count, *self._spec.row_shape)

    def _read_numbers(self, text: bytes, count: int, size: int) -> Array | None:
        """Return the same for an array of many numbers."""
        if size <= 0:
            return None
        try:
            data: Any = simdjson.Parser().parse(text)
            flat = np.frombuffer(data.as_buffer(of_type="d"))
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return None
        structure = text.translate(None, _NOT_STRUCTURE)
        if len(flat) != size or structure not in (b"[" + b"," * (size - 1) + b"]", self._structure(count)):
            return None
        return flat.astype(self._spec.dtype).reshape(count, *self._spec.row_shape) if self._fit(flat) else None

    def _structure(self, count: int) -> bytes:
        """Return the brackets and commas of a number of rows."""
        return b"[" + (self._row_structure + b",") * (count - 1) + self._row_structure + b"]"

    def _fit(self, flat: npt.NDArray[np.float64]) -> bool:
        """Return whether all numbers fit the dtype; False if float64 cannot prove it."""
        smallest, largest = self._spec.limits
        if self._spec.dtype.kind == "f":
            return bool(np.abs(flat).max() <= largest)
        whole = bool((np.rint(flat) == flat).all())
        return bool(whole and flat.min() >= max(smallest, -EXACT) and flat.max() <= min(largest, EXACT))


def encode_answers(answers: Answers) -> bytes:
    """Return the response body: a single answer itself, or a list of several; numbers keep all their digits.

    Args:
        answers: one answer per row: an array with rows as its first dimension, or a sequence of JSON values.
    """
    if isinstance(answers, np.ndarray):
        if answers.size <= _FEW_NUMBERS:  # a list is faster for a few numbers
            answers = answers.tolist()
        elif answers.dtype.kind == "f":
            # Convert to float64: for float32, orjson writes only the digits that distinguish neighbouring values.
            answers = np.ascontiguousarray(answers, np.float64)
    shown = answers[0] if len(answers) == 1 else answers
    return orjson.dumps({"prediction": shown}, to_jsonable, orjson.OPT_SERIALIZE_NUMPY)


def to_jsonable(answer: object) -> object:
    """Return an answer that orjson cannot encode, such as a pydantic model, as JSON values like BentoML's."""
    return to_jsonable_python(answer, by_alias=False)
