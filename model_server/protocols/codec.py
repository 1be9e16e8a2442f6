"""Between JSON and arrays: strict rows in, predictions out."""

import math
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import orjson
import simdjson

from model_server.errors import RequestError

Array = npt.NDArray[Any]
Prediction = Array | str | list[str]

_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_EXACT = 2**53 - 1  # up to here, each whole number is a float64 of its own
_FEW_NUMBERS = 256
_FEW_BYTES = 512  # beyond, simdjson is quicker than orjson and a look at each number

_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


class RowCodec:
    """Reads rows as one model takes them.

    Args:
        dtype: the model's input type: a float, integer or boolean one.
        row_shape: shape of one row, without the batch dimension; None for a dimension that may vary.

    Attributes:
        limits: smallest and largest number of that type.
    """

    def __init__(self, dtype: np.dtype[Any], row_shape: tuple[int | None, ...]) -> None:
        self.dtype = dtype
        self.row_shape = row_shape
        self.limits: tuple[float, float] = _limits(dtype)
        self._types = {int, float} if dtype.kind == "f" else {int}
        self._row_size = 0 if None in row_shape else math.prod(length or 0 for length in row_shape)
        self._row_structure = b""
        for length in reversed(row_shape):
            self._row_structure = b"[" + b",".join([self._row_structure] * (length or 0)) + b"]"

    def parse(self, body: bytes) -> Array:
        """Return the rows of a request body, `{"data": [row, ...]}`, as `rows` does.

        Raises:
            RequestError: the body is no such document, or a row is not one of the model's.
        """
        if len(body) > _FEW_BYTES and (rows := self._parse_many(body)) is not None:
            return rows
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            if error.msg.startswith("Not enough memory"):
                raise MemoryError from error
            raise RequestError(f"The body is not valid JSON: {error}.") from None
        if not isinstance(document, dict):
            raise RequestError(f'The body is {_name(document)}; expected an object, {{"data": [row, ...]}}.')
        if "data" not in document:
            raise RequestError('The field "data" is missing; expected {"data": [row, ...]}.')
        if len(document) > 1:
            extra = next(field for field in document if field != "data")
            raise RequestError(f'The field {extra[:40]!r} is unknown; expected "data" only.')
        data = document["data"]
        rows = np.array(data, self.dtype) if self._are_plain(data) else self.rows(data)
        if body.count(b'"') > 2:  # noqa: PLR2004 (those around "data"; of two such fields the parser takes the last)
            raise RequestError('The field "data" stands twice; expected it once.')
        return rows

    def _are_plain(self, data: object) -> bool:
        """Return whether this, read from JSON, surely is a list of flat rows that fit; `rows` takes longer to tell."""
        width = self._row_size
        if not data or type(data) is not list or not width or len(self.row_shape) != 1:
            return False
        smallest, largest = self.limits
        for row in data:
            if type(row) is not list or len(row) != width or not self._types.issuperset(map(type, row)):
                return False
            if min(row) < smallest or max(row) > largest:
                return False
        return True

    def _parse_many(self, body: bytes) -> Array | None:
        """Return the rows of a body that surely has nothing else, or None.

        The numbers are read into one flat array. That they were nested as they should be shows in the brackets and
        commas of the body, which has no string but "data" that could hold others.
        """
        if not self._row_size or body.count(b'"') != 2 or not body.isascii():  # noqa: PLR2004
            return None
        try:
            data: Any = simdjson.Parser().parse(body)["data"]  # type: ignore[index]
            flat = np.frombuffer(data.as_buffer(of_type="d"))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return None
        count, rest = divmod(len(flat), self._row_size)
        structure = b"[" + (self._row_structure + b",") * (count - 1) + self._row_structure + b"]"
        if rest or not count or body.translate(None, _NOT_STRUCTURE) != structure or not self._fits(flat):
            return None
        return flat.astype(self.dtype).reshape(count, *self.row_shape)

    def _fits(self, flat: npt.NDArray[np.float64]) -> bool:
        """Return whether all numbers surely fit the dtype."""
        smallest, largest = self.limits
        if self.dtype.kind == "f":
            return bool(np.abs(flat).max() <= largest)
        whole = bool((np.rint(flat) == flat).all())
        return bool(whole and flat.min() >= max(smallest, -_EXACT) and flat.max() <= min(largest, _EXACT))

    def rows(self, data: object) -> Array:
        """Return nested lists of numbers as an array of shape (N, *row_shape) and the model's dtype.

        Every number must be finite and fit the dtype: an integer type takes 5 and 5.0 but not 5.5, nor a decimal
        beyond 2**53, which may stand for another number; bool takes 0 and 1.

        Raises:
            RequestError: something else stands somewhere; the sentence says where, and what was expected.
        """
        level: list[Any] = [data]
        shape: list[int] = []
        for length in (None, *self.row_shape):
            elements = "rows" if not shape else "lists" if len(shape) < len(self.row_shape) else "numbers"
            for index, kind in enumerate(map(type, level)):
                if kind is not list:
                    expected = f"a list of {elements}" if length is None else f"a list of {length} {elements}"
                    raise RequestError(f"{_where(index, shape)} is {_name(level[index])}; expected {expected}.")
            lengths = list(map(len, level))
            expected_length = lengths[0] if length is None else length
            if set(lengths) != {expected_length}:
                index = next(index for index, found in enumerate(lengths) if found != expected_length)
                raise RequestError(
                    f"{_where(index, shape)} has length {lengths[index]}; expected {expected_length} {elements}"
                    + (f", as in {_where(0, shape)}." if length is None else ".")
                )
            if expected_length == 0:
                raise RequestError(f"{_where(0, shape)} is empty; expected {elements}.")
            level = list(chain.from_iterable(level))
            shape.append(expected_length)
        return self._cast(level, shape).reshape(shape)

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
            whole = [type(number) is int or (number.is_integer() and abs(number) <= _EXACT) for number in numbers]
            if not all(whole):
                self._refuse(numbers, whole, shape)
            # One by one: float64 in between would round what stands above 2**53.
            numbers = list(map(int, numbers))
        if min(numbers) < smallest or max(numbers) > largest:
            self._refuse(numbers, [smallest <= number <= largest for number in numbers], shape)
        return np.array(numbers, self.dtype)

    def _refuse(self, numbers: list[Any], fits: list[bool], shape: list[int]) -> NoReturn:
        """Raise what is wrong with the first number that does not fit."""
        index = fits.index(False)
        kind = "number" if self.dtype.kind == "f" else "whole number"
        smallest, largest = self.limits
        raise RequestError(
            f"{_where(index, shape)} is {_name(numbers[index])}; expected a {kind} from {smallest} to {largest}."
        )


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def encode(answer: object) -> bytes:
    """Return an answer as JSON."""
    return orjson.dumps(answer)


def encode_prediction(prediction: Prediction) -> bytes:
    """Return the body of an answer, `{"prediction": ...}`, with every digit of the probabilities."""
    if isinstance(prediction, np.ndarray):
        if prediction.size <= _FEW_NUMBERS:  # quicker, up to here
            return orjson.dumps({"prediction": prediction.tolist()})
        # As float64: orjson would write the fewest digits that tell one float32 from the next.
        prediction = np.ascontiguousarray(prediction, np.float64)
    return orjson.dumps({"prediction": prediction}, option=orjson.OPT_SERIALIZE_NUMPY)


def _where(index: int, shape: list[int]) -> str:
    return "data" + "".join(f"[{position}]" for position in np.unravel_index(index, shape))


def _name(value: object) -> str:
    return _JSON_NAMES.get(type(value)) or repr(value)[:40]
