"""Strict validation of rows for a model with several inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model_server.model.row_spec import RowSpec, describe_value, reorder_values
from model_server.model.rows import Array, Columns, InvalidRowsError, Position

_MAX_NAMES = 8  # listed in a message


class ColumnsSpec:
    """Names, types and shapes of a model's inputs; each input is a column of the rows.

    A row is an object with the input names as keys, or a list in the order of the inputs. An input of shape `[N]` or
    `[N, 1]` takes a single value per row; a wider input takes a list.

    Args:
        inputs: type and shape of each input's values.
        shared_dimensions: groups of dimensions that must have the same length; a dimension is given as the input's name
            and the dimension's index in a row.

    Attributes:
        inputs: as above.
        shared_dimensions: as above.
        values: the same as `inputs`, but with the shape () for an input that takes a single value.
    """

    def __init__(
        self, inputs: Mapping[str, RowSpec], shared_dimensions: Sequence[Sequence[tuple[str, int]]] = ()
    ) -> None:
        self.inputs = dict(inputs)
        self.shared_dimensions = shared_dimensions
        self.values = {
            name: RowSpec(
                spec.dtype,
                () if spec.row_shape == (1,) else spec.row_shape,
                max_length=spec.max_length,
                takes_booleans=True,
            )
            for name, spec in self.inputs.items()
        }
        self._names = list(self.inputs)
        self._expected = {name: spec.expected for name, spec in self.values.items()}

    @property
    def is_text(self) -> bool:
        """Whether some values are strings."""
        return any(spec.is_text for spec in self.inputs.values())

    @property
    def is_dynamic(self) -> bool:
        """Whether the length of a value may vary."""
        return any(spec.is_dynamic for spec in self.inputs.values())

    @property
    def expected(self) -> str:
        """Description of a valid row, for messages."""
        names = ", ".join(f'"{name}"' for name in self._names[:_MAX_NAMES])
        more = len(self._names) - _MAX_NAMES
        return (
            f"an object with {names}{f' and {more} more' if more > 0 else ''}, or a list of {len(self._names)} values"
        )

    def with_max_length(self, max_length: int | None) -> "ColumnsSpec":
        """Return a copy that limits the length of dynamic dimensions."""
        return ColumnsSpec(
            {name: spec.with_max_length(max_length) for name, spec in self.inputs.items()}, self.shared_dimensions
        )

    def rows(self, data: object) -> Columns:
        """Return rows as one array per input, each of shape (N, *row_shape) and the input's dtype.

        Args:
            data: a list of objects with the input names as keys, or of lists in the order of the inputs; an array of
                such lists; or columns.

        Raises:
            InvalidRowsError: a name is missing or unknown, or a value has the wrong type, size or shape.
        """
        if isinstance(data, Columns):
            return self._check(data)
        if isinstance(data, np.ndarray):
            data = data.tolist()
        if type(data) is not list:
            raise InvalidRowsError((), f"is {describe_value(data)}; expected a list of rows")
        if not data:
            raise InvalidRowsError((), "is empty; expected rows")
        rows = reorder_values(data, self._names, self._expected)
        for index, row in enumerate(rows):
            if type(row) is not list:
                raise InvalidRowsError((index,), f"is {describe_value(row)}; expected {self.expected}")
            if len(row) != len(self._names):
                raise InvalidRowsError(
                    (index,), f"has length {len(row)}; expected {len(self._names)} values, one for each input"
                )
        columns = zip(self._names, zip(*rows, strict=True), strict=True)
        return self.to_columns({name: self._column(name, list(values)) for name, values in columns})

    def as_json(self, rows: Columns) -> list[dict[str, Any]]:
        """Return rows as JSON values, as a client sends them: objects with the input names as keys."""
        columns = [
            value.as_json(rows[name].reshape(len(rows)) if not value.row_shape else rows[name])
            for name, value in self.values.items()
        ]
        return [dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)]

    def to_columns(self, arrays: Mapping[str, Array]) -> Columns:
        """Return checked arrays as columns.

        Raises:
            InvalidRowsError: dimensions that must have the same length differ.
        """
        for group in self.shared_dimensions:
            (first, first_axis), *others = group
            length = arrays[first].shape[1 + first_axis]
            for name, axis in others:
                found = arrays[name].shape[1 + axis]
                if found != length:
                    raise InvalidRowsError(
                        (0, name, *(0,) * axis),
                        f"has length {found}; expected {length}",
                        (0, first, *(0,) * first_axis),
                    )
        return Columns(arrays)

    def _check(self, columns: Columns) -> Columns:
        if set(columns.arrays) != set(self._names):
            raise InvalidRowsError((), f"has the columns {', '.join(columns.arrays)}; expected {self.expected}")
        for name, array in columns.arrays.items():
            if len(array) != len(columns):
                raise InvalidRowsError((), f"has {len(array)} values of {name} for {len(columns)} rows")
        checked = {}
        for name, spec in self.inputs.items():
            try:
                checked[name] = spec.rows(columns[name])
            except InvalidRowsError as error:
                raise _with_column(name, error) from None
        return self.to_columns(checked)

    def _column(self, name: str, values: list[Any]) -> Array:
        try:
            array = self.values[name].rows(values)
        except InvalidRowsError as error:
            raise _with_column(name, error) from None
        return array.reshape(-1, 1) if self.inputs[name].row_shape == (1,) else array


def _with_column(name: str, error: InvalidRowsError) -> InvalidRowsError:
    """Return an error in one column as an error in the rows."""
    return InvalidRowsError(
        _insert_column(name, error.position),
        error.problem,
        None if error.reference is None else _insert_column(name, error.reference),
    )


def _insert_column(name: str, position: Position) -> Position:
    return (*position[:1], name, *position[1:]) if position else (name,)
