"""Strict validation of rows for a model with one input."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import orjson

from model_server.model.rows import Array, InvalidRowsError, Position

EXACT = 2**53 - 1  # up to this number, float64 represents every integer exactly

_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_SHOWN = 40  # characters of an invalid value in a message
_MAX_NAMES = 8  # listed in a message


class RowSpec:
    """Type and shape of the values of one input.

    Args:
        dtype: the model's input type: a float, integer or boolean type; object for text.
        row_shape: shape of one row, without the batch dimension; None for a dynamic dimension.
        names: names of the values of a row; if they are unique, a row may be an object with these keys.
        max_length: maximum length of a dynamic dimension; None for any length.
        takes_booleans: whether a boolean type accepts true and false as well as 1 and 0.

    Attributes:
        dtype: as above.
        row_shape: as above.
        names: as above; empty unless each value has a unique name.
        max_length: as above.
        takes_booleans: as above.
        limits: smallest and largest number of the type; two zeros for text.
        row_size: number of values in a row; 0 if that varies.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        row_shape: tuple[int | None, ...],
        names: Sequence[str] = (),
        max_length: int | None = None,
        *,
        takes_booleans: bool = False,
    ) -> None:
        self.dtype = dtype
        self.row_shape = row_shape
        self.names = tuple(names) if len(set(names)) == len(names) and row_shape == (len(names),) else ()
        self.max_length = max_length
        self.takes_booleans = takes_booleans and dtype.kind == "b"
        self.limits: tuple[float, float] = _limits(dtype)
        self.row_size = 0 if None in row_shape else math.prod(length or 0 for length in row_shape)

    @property
    def is_text(self) -> bool:
        """Whether the values are strings."""
        return self.dtype.kind == "O"

    @property
    def type_name(self) -> str:
        """The type of the values, such as float32, bool or string."""
        return "string" if self.is_text else str(self.dtype)

    @property
    def batch_shape(self) -> str:
        """The shape of a batch of one row, such as (1, 4)."""
        return str((1, *self.row_shape))

    @property
    def is_dynamic(self) -> bool:
        """Whether a row has a dynamic dimension."""
        return None in self.row_shape

    @property
    def expected(self) -> str:
        """Description of a valid row for messages, such as "a list of 4 numbers"."""
        if not self.row_shape:
            return self._expected_value()
        return f"a list of {'' if self.row_shape[0] is None else f'{self.row_shape[0]} '}{self._elements(1)}"

    def with_max_length(self, max_length: int | None) -> "RowSpec":
        """Return a copy that limits the length of dynamic dimensions."""
        return RowSpec(self.dtype, self.row_shape, self.names, max_length, takes_booleans=self.takes_booleans)

    def rows(self, data: object) -> Array:
        """Return rows as an array of shape (N, *row_shape) and the model's dtype.

        Every number must be finite and fit the dtype. An integer type accepts 5 and 5.0, but neither 5.5 nor a float
        beyond 2**53, which may be rounded; bool accepts 0 and 1. Text must be valid Unicode.

        Args:
            data: nested lists of values, where a row may be an object if its values have names; or an array.

        Raises:
            InvalidRowsError: a value has the wrong type, size or shape.
        """
        if isinstance(data, np.ndarray):
            if data.dtype == self.dtype and self.fits(data.shape) and self._is_sound(data):
                return data
            data = data.tolist()
        if not self.names or type(data) is not list or dict not in set(map(type, data)):
            return self._read(data)
        try:
            return self._read(reorder_values(data, self.names, self._expected_value()))
        except InvalidRowsError as error:
            raise InvalidRowsError(
                self._named(data, error.position), error.problem, error.reference and self._named(data, error.reference)
            ) from None

    def as_json(self, rows: Array) -> list[Any]:
        """Return rows as JSON values, as a client sends them.

        A number has the fewest digits that identify it in its type: 5.1, where tolist() gives 5.099999904632568.
        """
        if self.is_text or self.takes_booleans:
            values: list[Any] = rows.tolist()
            return values
        plain = rows.astype(np.uint8) if rows.dtype == np.bool_ else np.ascontiguousarray(rows)
        numbers: list[Any] = orjson.loads(orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY))
        return numbers

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of this shape holds valid rows."""
        lengths = list(zip(shape[1:], self.row_shape, strict=False))
        return (
            len(shape) == 1 + len(self.row_shape)
            and 0 not in shape
            and all(wanted in (None, found) for found, wanted in lengths)
            and all(found <= (self.max_length or found) for found, wanted in lengths if wanted is None)
        )

    def _is_sound(self, data: Array) -> bool:
        """Return whether all values are valid, given that the dtype is right; False for text, which `_read` checks."""
        return not self.is_text and bool(np.isfinite(data).all())

    def _read(self, rows: object) -> Array:
        level: list[Any] = [rows]
        shape: list[int] = []
        for length in (None, *self.row_shape):
            elements = self._elements(len(shape))
            for index, kind in enumerate(map(type, level)):
                if kind is not list:
                    expected = f"a list of {elements}" if length is None else f"a list of {length} {elements}"
                    raise InvalidRowsError(
                        _position(index, shape), f"is {describe_value(level[index])}; expected {expected}"
                    )
            lengths = list(map(len, level))
            expected_length = lengths[0] if length is None else length
            if set(lengths) != {expected_length}:
                index = next(index for index, found in enumerate(lengths) if found != expected_length)
                raise InvalidRowsError(
                    _position(index, shape),
                    f"has length {lengths[index]}; expected {expected_length} {elements}",
                    _position(0, shape) if length is None else None,
                )
            if expected_length == 0:
                raise InvalidRowsError(_position(0, shape), f"is empty; expected {elements}")
            if shape and length is None and expected_length > (self.max_length or expected_length):
                raise InvalidRowsError(
                    _position(0, shape),
                    f"has length {expected_length}; expected at most {self.max_length} {elements} (MAX_ROW_LENGTH)",
                )
            level = list(chain.from_iterable(level))
            shape.append(expected_length)
        return self.cast(level, shape)

    def _elements(self, depth: int) -> str:
        """Return the name for the elements of the lists at a depth; depth 0 is the list of rows."""
        if not depth:
            return "rows"
        return "lists" if depth < len(self.row_shape) else "strings" if self.is_text else "numbers"

    def _named(self, data: list[Any], position: Position) -> Position:
        match position:
            case (int(row), int(index), *_) if isinstance(data[row], dict):
                return (row, self.names[index])
        return position

    def cast(self, values: list[Any], shape: Sequence[int]) -> Array:
        """Return the values of rows in row-major order as an array of this shape, which must be valid for the rows.

        Raises:
            InvalidRowsError: a value has the wrong type or size.
        """
        return self._cast(values, shape).reshape(shape)

    def _cast(self, values: list[Any], shape: Sequence[int]) -> Array:
        types = set(map(type, values))
        if self.is_text:
            return self._cast_text(values, types, shape)
        if self.takes_booleans and bool in types:
            values = [int(value) if type(value) is bool else value for value in values]
            types = set(map(type, values))
        if not {int, float}.issuperset(types):
            self._refuse(values, [type(value) in (int, float) for value in values], shape)
        smallest, largest = self.limits
        if self.dtype.kind == "f":
            try:
                floats = np.array(values, np.float64)
            except OverflowError:  # an integer beyond float64
                self._refuse(values, [smallest <= number <= largest for number in values], shape)
            fits = (floats >= smallest) & (floats <= largest)
            if not fits.all():
                self._refuse(values, fits.tolist(), shape)
            return floats.astype(self.dtype)
        if float in types:
            whole = [type(number) is int or (number.is_integer() and abs(number) <= EXACT) for number in values]
            if not all(whole):
                self._refuse(values, whole, shape)
            # Convert in Python: float64 would round integers above 2**53.
            values = list(map(int, values))
        if min(values) < smallest or max(values) > largest:
            self._refuse(values, [smallest <= number <= largest for number in values], shape)
        return np.array(values, self.dtype)

    def _cast_text(self, values: list[Any], types: set[type], shape: Sequence[int]) -> Array:
        if types != {str}:
            self._refuse(values, [type(value) is str for value in values], shape)
        if not is_unicode(values):
            index = next(index for index, value in enumerate(values) if not is_unicode([value]))
            raise InvalidRowsError(_position(index, shape), "contains a lone surrogate; expected valid Unicode")
        return np.array(values, self.dtype)

    def _expected_value(self) -> str:
        if self.is_text:
            return "a string"
        if self.takes_booleans:
            return "true, false, 0 or 1"
        smallest, largest = self.limits
        return f"a {'number' if self.dtype.kind == 'f' else 'whole number'} from {smallest} to {largest}"

    def _refuse(self, values: list[Any], fits: list[bool], shape: Sequence[int]) -> NoReturn:
        """Raise `InvalidRowsError` for the first value that does not fit."""
        index = fits.index(False)
        raise InvalidRowsError(
            _position(index, shape), f"is {describe_value(values[index])}; expected {self._expected_value()}"
        )


def reorder_values(rows: Sequence[Any], names: Sequence[str], expected: str | Mapping[str, str]) -> list[Any]:
    """Return the rows with each object replaced by the list of its values in the order of the names.

    Args:
        rows: the rows; rows that are not objects are returned unchanged.
        names: the names that each object must have; no others are allowed.
        expected: description of a valid value, for each name or for all of them.

    Raises:
        InvalidRowsError: a name is missing or unknown.
    """
    count = len(names)
    lists = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            lists.append(row)
            continue
        try:
            lists.append([row[name] for name in names])
        except KeyError:
            _refuse_names(index, row, names, expected)
        if len(row) != count:
            _refuse_names(index, row, names, expected)
    return lists


def is_unicode(strings: Sequence[str]) -> bool:
    """Return whether strings are valid Unicode; a Python string may contain a lone surrogate."""
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_value(value: object) -> str:
    """Return a short description of an invalid value."""
    return _TYPES.get(type(value)) or repr(value)[:_SHOWN]


def _refuse_names(
    index: int, row: Mapping[str, Any], names: Sequence[str], expected: str | Mapping[str, str]
) -> NoReturn:
    missing = [name for name in names if name not in row]
    unknown = next((name for name in row if name not in set(names)), None)
    if unknown is not None:
        listed = ", ".join(f'"{name}"' for name in (missing or names)[:_MAX_NAMES])
        more = len(missing or names) - _MAX_NAMES
        raise InvalidRowsError(
            (index, str(unknown)), f"is unknown; expected {listed}{f' and {more} more' if more > 0 else ''}"
        )
    [name, *_] = missing
    wanted = expected if isinstance(expected, str) else expected[name]
    raise InvalidRowsError((index, name), f"is missing; expected {wanted}")


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "O":
        return 0, 0
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _position(index: int, shape: Sequence[int]) -> Position:
    return tuple(map(int, np.unravel_index(index, shape)))
