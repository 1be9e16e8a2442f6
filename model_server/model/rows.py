"""The rows that a model takes, checked strictly."""

import math
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EXACT = 2**53 - 1  # up to here, every whole number has its own float64

_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


class InvalidRowsError(ValueError):
    """Rows that the model does not take.

    Attributes:
        position: where the wrong value is: the index of its row, then its indices in the row. Empty for the rows as a
            whole.
        problem: what is wrong there and what was expected, such as "is a string; expected a number".
        like: position of another value that `problem` is compared with.
    """

    def __init__(self, position: tuple[int, ...], problem: str, like: tuple[int, ...] | None = None) -> None:
        super().__init__(f"rows{''.join(f'[{index}]' for index in position)} {problem}")
        self.position = position
        self.problem = problem
        self.like = like


class RowSpec:
    """Type and shape of one model's rows.

    Args:
        dtype: the model's input type: a float, integer or boolean one.
        row_shape: shape of one row, without the batch dimension; None for a dimension that may vary.

    Attributes:
        limits: smallest and largest number of that type.
        row_size: numbers in a row; 0 if that varies.
    """

    def __init__(self, dtype: np.dtype[Any], row_shape: tuple[int | None, ...]) -> None:
        self.dtype = dtype
        self.row_shape = row_shape
        self.limits: tuple[float, float] = _limits(dtype)
        self.row_size = 0 if None in row_shape else math.prod(length or 0 for length in row_shape)

    def array(self, rows: object) -> Array:
        """Return rows as an array of shape (N, *row_shape) and the model's dtype.

        Every number must be finite and fit the dtype: an integer type takes 5 and 5.0, but not 5.5, nor a decimal
        beyond 2**53, which may stand for another number; bool takes 0 and 1.

        Args:
            rows: nested lists of numbers, or an array.

        Raises:
            InvalidRowsError: a value has the wrong type, size or shape.
        """
        if isinstance(rows, np.ndarray):
            if rows.dtype == self.dtype and self._fits(rows.shape) and np.isfinite(rows).all():
                return rows
            rows = rows.tolist()
        level: list[Any] = [rows]
        shape: list[int] = []
        for length in (None, *self.row_shape):
            elements = "rows" if not shape else "lists" if len(shape) < len(self.row_shape) else "numbers"
            for index, kind in enumerate(map(type, level)):
                if kind is not list:
                    expected = f"a list of {elements}" if length is None else f"a list of {length} {elements}"
                    raise InvalidRowsError(_position(index, shape), f"is {_name(level[index])}; expected {expected}")
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
            level = list(chain.from_iterable(level))
            shape.append(expected_length)
        return self._cast(level, shape).reshape(shape)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        lengths = zip(shape[1:], self.row_shape, strict=False)
        return (
            len(shape) == 1 + len(self.row_shape)
            and 0 not in shape
            and all(wanted in (None, found) for found, wanted in lengths)
        )

    def _cast(self, numbers: list[Any], shape: list[int]) -> Array:
        types = list(map(type, numbers))
        if not {int, float}.issuperset(types):
            self._refuse(numbers, [kind in (int, float) for kind in types], shape)
        smallest, largest = self.limits
        if self.dtype.kind == "f":
            try:
                floats = np.array(numbers, np.float64)
            except OverflowError:  # an integer beyond float64
                self._refuse(numbers, [smallest <= number <= largest for number in numbers], shape)
            fits = (floats >= smallest) & (floats <= largest)
            if not fits.all():
                self._refuse(numbers, fits.tolist(), shape)
            return floats.astype(self.dtype)
        if float in types:
            whole = [type(number) is int or (number.is_integer() and abs(number) <= EXACT) for number in numbers]
            if not all(whole):
                self._refuse(numbers, whole, shape)
            # One by one: float64 in between would round integers above 2**53.
            numbers = list(map(int, numbers))
        if min(numbers) < smallest or max(numbers) > largest:
            self._refuse(numbers, [smallest <= number <= largest for number in numbers], shape)
        return np.array(numbers, self.dtype)

    def _refuse(self, numbers: list[Any], fits: list[bool], shape: list[int]) -> NoReturn:
        """Raise the error for the first number that does not fit."""
        index = fits.index(False)
        kind = "number" if self.dtype.kind == "f" else "whole number"
        smallest, largest = self.limits
        raise InvalidRowsError(
            _position(index, shape), f"is {_name(numbers[index])}; expected a {kind} from {smallest} to {largest}"
        )


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _position(index: int, shape: list[int]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(index, shape)))


def _name(value: object) -> str:
    return _NAMES.get(type(value)) or repr(value)[:40]
