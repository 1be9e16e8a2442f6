"""Determines from an ONNX file which rows it takes."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np
import onnxruntime as ort
import orjson

from model_server.errors import StartError
from model_server.model.columns_spec import ColumnsSpec
from model_server.model.graph import Category, Graph
from model_server.model.hints import hint_for_error, one_line
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array, Columns, InvalidRowsError, Position, Rows, repeat

SAMPLE_PROPERTY = "data_sample"
NAMES_PROPERTY = "feature_names"

_INPUT_TYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
_EXPORT_SHAPE = 'export it with the shape of a row after a dynamic batch dimension, as in ["N", 4]'
_STRINGS = ("text", "other text")  # in synthetic rows
# ONNX Runtime's error for an index outside a lookup table, such as a token id outside the vocabulary.
_INDEX_OUT_OF_RANGE = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),(-?\d+)\]")
_SHOWN = 40  # characters of an invalid value in a message
_MAX_CATEGORIES = 10  # listed in a message
_MAX_NUMBERS = 1 << 24  # the most that a 32 MiB body holds; Python needs 500 MB for them


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model.

    Attributes:
        names: names of the inputs.
        spec: types and shapes of the rows: a `RowSpec` for a model with one input.
        batch: number of rows that one inference takes; None for any number.
        own_row: the row in the file's metadata property `data_sample`; None without one.
        feature_names: names of the values of a row; empty if the file does not give them.
        categories: the values that the model's encoders know, by input.
    """

    names: Sequence[str]
    spec: RowSpec | ColumnsSpec
    batch: int | None
    own_row: Rows | None
    feature_names: Sequence[str]
    categories: Mapping[str, Sequence[Category]]

    @property
    def specs(self) -> Mapping[str, RowSpec]:
        """Type and shape of each input's values."""
        return self.with_limits_of(self.spec)

    def with_limits_of(self, spec: RowSpec | ColumnsSpec) -> Mapping[str, RowSpec]:
        """Return type and shape of each input's values, with the limits of a specification of the same rows."""
        return spec.inputs if isinstance(spec, ColumnsSpec) else {self.names[0]: spec}

    def feed(self, rows: Rows) -> Mapping[str, Array]:
        """Return rows in the form that ONNX Runtime takes: arrays by input name."""
        return rows.arrays if isinstance(rows, Columns) else {self.names[0]: rows}

    def as_json(self, rows: Rows) -> list[Any]:
        """Return rows as JSON values, as a client sends them."""
        if isinstance(self.spec, ColumnsSpec):
            return self.spec.as_json(cast("Columns", rows))
        return self.spec.as_json(cast("Array", rows))

    def find_invalid_value(self, rows: Rows, error: Exception) -> InvalidRowsError | None:
        """Return an error for the value that made an inference fail; None if that value cannot be identified.

        Args:
            rows: the rows of the failed inference.
            error: ONNX Runtime's error.
        """
        out_of_range = _INDEX_OUT_OF_RANGE.search(str(error))
        for name, array in self.feed(rows).items():
            if array.dtype.kind not in "iuO":
                continue
            values = array.ravel().tolist()
            if out_of_range:
                wrong, first, last = map(int, out_of_range.groups())
                unknown = {wrong}.intersection(values)
                expected = f"a whole number from {max(0, first)} to {last}"
            elif categories := self.categories.get(name):
                unknown = set(values).difference(categories)
                expected = ", ".join(map(repr, categories[:_MAX_CATEGORIES]))
                if len(categories) > _MAX_CATEGORIES:
                    expected += f" and {len(categories) - _MAX_CATEGORIES} more"
            else:
                continue
            if unknown:
                index = next(index for index, value in enumerate(values) if value in unknown)
                problem = f"is {repr(values[index])[:_SHOWN]}, which the model does not support; expected {expected}"
                return InvalidRowsError(self._position(name, index, array.shape), problem)
        return None

    def _position(self, name: str, index: int, shape: tuple[int, ...]) -> Position:
        """Return the position in the rows of the value at an index of an input's flattened array."""
        row, *rest = map(int, np.unravel_index(index, shape))
        if isinstance(self.spec, RowSpec):
            return (row, *rest)
        return (row, name) if shape[1:] == (1,) and not self.spec.values[name].row_shape else (row, name, *rest)


@dataclass(frozen=True)
class Trial:
    """A row, and the output values by name for a batch that repeats it."""

    row: Rows
    values: dict[str, Any]


def read_inputs(session: ort.InferenceSession, graph: Graph) -> Inputs:
    """Return the inputs of the model, as the file declares them.

    Args:
        session: a session for the file.
        graph: the nodes of the file.

    Raises:
        StartError: no request can hold the model's rows. The reason continues a sentence that starts with the file's
            name: "has no inputs ...".
    """
    declared = session.get_inputs()
    if not declared:
        raise StartError(
            "model-inputs",
            "has no inputs, so its answer never changes; expected rows as inputs",
            "export it with its data as inputs, not as constants",
        )
    specs = {found.name: _read_spec(found) for found in declared}
    properties = session.get_modelmeta().custom_metadata_map
    spec: RowSpec | ColumnsSpec
    own_row: Rows | None
    if len(declared) == 1:
        [spec] = specs.values()
        own_row = _own_row(properties, spec)
        feature_names = _feature_names(properties, spec)
        width = None if own_row is None else own_row.shape[1:]
        spec = RowSpec(spec.dtype, _with_fixed_width(declared[0].name, spec, width), feature_names)
    else:
        spec = ColumnsSpec(specs)
        feature_names = list(specs)
        own_row = _own_row(properties, spec)
        widths = {name: None if own_row is None else own_row[name].shape[1:] for name in specs}
        fixed = {name: RowSpec(spec.dtype, _with_fixed_width(name, spec, widths[name])) for name, spec in specs.items()}
        spec = ColumnsSpec(fixed, _shared_dimensions(declared, fixed))
    categories = {name: found for name, value in specs.items() if (found := _categories(graph.categories(name), value))}
    return Inputs(list(specs), spec, _batch(declared), own_row, feature_names, categories)


def try_rows(session: ort.InferenceSession, inputs: Inputs) -> Iterator[Trial]:
    """Yield the model's outputs for the row in its file, if there is one, and for synthetic rows.

    Raises:
        StartError: the model fails on the row in its file or, without such a row, on every synthetic row.
    """
    own_row = inputs.own_row
    # Two rows: a model that normalises its input fails on zeros, and on zeros a bias alone can look like probabilities.
    synthetic = [_synthetic_row(inputs, index) for index in range(2)]
    failure = ""
    tried = 0
    for row in synthetic if own_row is None else [own_row, *synthetic]:
        try:
            values = session.run(None, inputs.feed(repeat(row, inputs.batch or 1)))
        except Exception as error:
            if row is own_row:
                raise StartError(
                    "model-sample",
                    f'fails on the row in its property "{SAMPLE_PROPERTY}": {one_line(error)}',
                    "replace that row with a row that the model takes",
                ) from error
            failure = one_line(error)
            continue
        tried += 1
        yield Trial(row, dict(zip((output.name for output in session.get_outputs()), values, strict=True)))
    if not tried:
        spec = inputs.spec
        shapes = "types and shapes" if isinstance(spec, ColumnsSpec) else f"shape {spec.row_shape}"
        raise StartError(
            "model-sample",
            f"fails on a row of the {shapes} that it declares: {failure}",
            hint_for_error(failure) or f'put a row that it takes into its metadata property "{SAMPLE_PROPERTY}"',
        )


def _read_spec(found: ort.NodeArg) -> RowSpec:
    """Return type and shape of the values that a row has for an input."""
    if found.type not in _INPUT_TYPES:
        raise StartError(
            "model-input-type",
            f'takes {found.type} as its input "{found.name}"; expected a tensor of numbers, text or booleans',
            "export it with such tensors as its inputs, for scikit-learn with FloatTensorType, Int64TensorType, "
            "StringTensorType or BooleanTensorType in initial_types",
        )
    if not found.shape:
        raise StartError(
            "model-input-shape",
            f'declares no shape for its input "{found.name}"; expected at least a batch dimension',
            _EXPORT_SHAPE,
        )
    batch, *row_shape = (dimension if isinstance(dimension, int) else None for dimension in found.shape)
    if 0 in (batch, *row_shape):
        raise StartError(
            "model-input-shape", f'declares the empty shape {found.shape} for its input "{found.name}"', _EXPORT_SHAPE
        )
    numbers = math.prod(length or 1 for length in (batch, *row_shape))
    if numbers > _MAX_NUMBERS:
        raise StartError(
            "model-input-shape",
            f"takes {numbers} numbers at once, of shape {found.shape}; expected at most {_MAX_NUMBERS}",
            _EXPORT_SHAPE,
        )
    return RowSpec(np.dtype(_INPUT_TYPES[found.type]), tuple(row_shape))


def _categories(listed: Sequence[Category], spec: RowSpec) -> Sequence[Category]:
    """Return the categories, or none if the input takes several values per row or values of another type."""
    if not listed or spec.row_shape not in ((), (1,)):
        return ()
    try:
        RowSpec(spec.dtype, ()).rows(list(listed))
    except InvalidRowsError:
        return ()
    return listed


def _batch(declared: Sequence[ort.NodeArg]) -> int | None:
    """Return how many rows the inputs take at once; None for any number."""
    batches = {found.shape[0]: found.name for found in declared if isinstance(found.shape[0], int)}
    if len(batches) > 1:
        (one, name), (other, another), *_ = batches.items()
        raise StartError(
            "model-input-shape",
            f'takes {one} rows at once as its input "{name}", but {other} as its input "{another}"; expected the same '
            "batch dimension",
            _EXPORT_SHAPE,
        )
    return next(iter(batches), None)


def _shared_dimensions(declared: Sequence[ort.NodeArg], specs: Mapping[str, RowSpec]) -> list[list[tuple[str, int]]]:
    """Return the dynamic dimensions that share a name in the file, in the form that `ColumnsSpec` takes."""
    groups = defaultdict(list)
    for found in declared:
        for axis, (dimension, length) in enumerate(zip(found.shape[1:], specs[found.name].row_shape, strict=True)):
            if isinstance(dimension, str) and length is None:
                groups[dimension].append((found.name, axis))
    return [group for group in groups.values() if len(group) > 1]


def _synthetic_row(inputs: Inputs, index: int) -> Rows:
    """Return a row with the file's categories where it lists them; otherwise with zeros, ones or placeholder text."""
    arrays = {}
    for name, spec in inputs.specs.items():
        listed = inputs.categories.get(name) or (_STRINGS if spec.is_text else (0, 1))
        shape = (1, *(dimension or 1 for dimension in spec.row_shape))
        arrays[name] = np.full(shape, listed[min(index, len(listed) - 1)], spec.dtype)
    return Columns(arrays) if isinstance(inputs.spec, ColumnsSpec) else arrays[inputs.names[0]]


@overload
def _own_row(properties: Mapping[str, str], spec: RowSpec) -> Array | None: ...


@overload
def _own_row(properties: Mapping[str, str], spec: ColumnsSpec) -> Columns | None: ...


def _own_row(properties: Mapping[str, str], spec: RowSpec | ColumnsSpec) -> Rows | None:
    text = properties.get(SAMPLE_PROPERTY)
    if text is None:
        return None
    try:
        return spec.rows(orjson.loads(text))[:1]
    except ValueError as error:
        raise StartError(
            "model-sample",
            f'has a metadata property "{SAMPLE_PROPERTY}" that is not a row of the model: {error}',
            f"make it a JSON list with one row: {spec.expected}",
        ) from error


def _feature_names(properties: Mapping[str, str], spec: RowSpec) -> Sequence[str]:
    """Return the names in the file's metadata property; empty unless it is a list with a string for each value."""
    try:
        names = orjson.loads(properties.get(NAMES_PROPERTY, "[]"))
    except orjson.JSONDecodeError:
        return ()
    are_names = isinstance(names, list) and spec.row_shape == (len(names),) and {str}.issuperset(map(type, names))
    return names if are_names else ()


def _with_fixed_width(name: str, spec: RowSpec, own_shape: tuple[int, ...] | None) -> tuple[int | None, ...]:
    """Return the shape of a row, with a fixed length for floats and strings.

    ONNX operators may read past the end of a row that is too short.

    Args:
        name: name of the input.
        spec: type and shape that the file declares.
        own_shape: the shape of the row in the file; None without one.

    Raises:
        StartError: the file does not give the length.
    """
    if spec.row_shape != (None,) or spec.dtype.kind not in "fO":
        return spec.row_shape
    if own_shape is None:
        raise StartError(
            "model-input-shape",
            f'does not declare how many {"strings" if spec.is_text else "numbers"} a row has in its input "{name}"',
            f'export it with a fixed number, or add a row as its metadata property "{SAMPLE_PROPERTY}"',
        )
    return own_shape
