"""Rows: an array or, for a model with several inputs, one array per input."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices: TypeAlias = slice | Array | Sequence[int]
Position: TypeAlias = tuple[int | str, ...]

_MAX_SHOWN = 80  # characters of a name in a message


class Columns:
    """Rows of a model with several inputs: named arrays of equal length, each of shape (N, *shape of a value).

    `len(columns)` is the number of rows. `columns["age"]` is the array of a column; `columns[2:5]` and
    `columns[[0, 3]]` select rows.

    Args:
        arrays: the array of each input, all with the same number of rows.

    Attributes:
        arrays: as above; ONNX Runtime takes them in this form.
    """

    __slots__ = ("_length", "arrays")

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self._length = len(next(iter(arrays.values())))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, key: str) -> Array: ...

    @overload
    def __getitem__(self, key: Indices) -> "Columns": ...

    def __getitem__(self, key: str | Indices) -> "Array | Columns":
        if isinstance(key, str):
            return self.arrays[key]
        return Columns({name: array[key] for name, array in self.arrays.items()})

    def __repr__(self) -> str:
        return f"Columns({', '.join(f'{name}: {array.dtype}{array.shape}' for name, array in self.arrays.items())})"


Rows: TypeAlias = Array | Columns


class InvalidRowsError(ValueError):
    """The rows are invalid for the model.

    Attributes:
        position: position of the invalid value: the index of its row, then the name of its column if it has one, then
            its indices within the column. Empty for the rows as a whole.
        problem: the problem and the expected value, such as "is a string; expected a number".
        reference: position of the value that set the expectation; None without one.
    """

    def __init__(self, position: Position, problem: str, reference: Position | None = None) -> None:
        super().__init__(f"{format_position('rows', position)} {problem}")
        self.position = position
        self.problem = problem
        self.reference = reference


def format_position(rows: str, position: Position) -> str:
    """Return a position as text, such as `data[3].age` or `data[3]["odd name"]`.

    Args:
        rows: name of the rows.
        position: as in `InvalidRowsError`.
    """
    return rows + "".join(_step(step) for step in position)


def repeat(rows: Rows, count: int) -> Rows:
    """Return rows with each row repeated `count` times in succession."""
    return rows[np.arange(len(rows)).repeat(count)]


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts in order. The parts must be for the same model and have the same row lengths.

    Raises:
        ValueError: there are no parts, or their row lengths differ.
    """
    columns = [part for part in parts if isinstance(part, Columns)]
    if not columns:
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    return Columns({name: np.concatenate([part[name] for part in columns]) for name in columns[0].arrays})


def _step(step: int | str) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if re.fullmatch(r"[A-Za-z_]\w*", step) and len(step) <= _MAX_SHOWN:
        return f".{step}"
    return f"[{json.dumps(step[:_MAX_SHOWN], ensure_ascii=False)}]"
