"""The rows that a model takes: an array, or for a model with several inputs one array per input."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices: TypeAlias = slice | Array | Sequence[int]
Position: TypeAlias = tuple[int | str, ...]

_MOST = 80  # characters of a name that are shown


class Columns:
    """Rows as named arrays of one length, each of shape (N, *shape of a value): what a model with several inputs takes.

    `len` is the number of rows; `columns["age"]` is an array, `columns[2:5]` or `columns[[0, 3]]` are some of the rows.

    Args:
        arrays: the array of each input, all with as many rows.

    Attributes:
        arrays: as above, in the form in which ONNX Runtime takes them.
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
    """Rows that the model does not take.

    Attributes:
        position: where the wrong value is: the index of its row, then the name of its column where rows have names,
            then its indices in there. Empty for the rows as a whole.
        problem: what is wrong there and what was expected, such as "is a string; expected a number".
        like: position of another value that `problem` is compared with.
    """

    def __init__(self, position: Position, problem: str, like: Position | None = None) -> None:
        super().__init__(f"{place('rows', position)} {problem}")
        self.position = position
        self.problem = problem
        self.like = like


def place(rows: str, position: Position) -> str:
    """Return a position as one writes it: `data[3].age`, or `data[3]["weird name"]`.

    Args:
        rows: what to call the rows.
        position: as in `InvalidRowsError`.
    """
    return rows + "".join(_step(step) for step in position)


def repeat(rows: Rows, count: int) -> Rows:
    """Return each row so many times, one after the other."""
    return rows[np.arange(len(rows)).repeat(count)]


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts in order; they must be of one model, and agree in their free lengths.

    Raises:
        ValueError: there are no parts, or they do not agree.
    """
    columns = [part for part in parts if isinstance(part, Columns)]
    if not columns:
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    return Columns({name: np.concatenate([part[name] for part in columns]) for name in columns[0].arrays})


def _step(step: int | str) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if re.fullmatch(r"[A-Za-z_]\w*", step) and len(step) <= _MOST:
        return f".{step}"
    return f"[{json.dumps(step[:_MOST], ensure_ascii=False)}]"
