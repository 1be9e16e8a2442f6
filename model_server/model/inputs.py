"""The rows that an ONNX file takes, found out from the file alone."""

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
from model_server.model.remedies import one_line, remedy_of_error
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
_EXPORT_SHAPE = 'export it with the shape of a row after a free batch dimension, as in ["N", 4]'
_TEXTS = ("text", "other text")  # of made-up rows
# ONNX Runtime of an index beyond what a model looks up, such as a token beyond its vocabulary.
_OUTSIDE = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),(-?\d+)\]")
_SHOWN = 40  # characters of a wrong value
_MOST_CATEGORIES = 10  # that a message lists
_MAX_NUMBERS = 1 << 24  # a body of 32 MiB has no more, and Python takes 500 MB for as many


@dataclass(frozen=True)
class Inputs:
    """How rows are given to a model.

    Attributes:
        names: names of its inputs.
        spec: types and shapes of its rows: a `RowSpec` for a model with one input.
        batch: how many rows it takes at once, or None for any number.
        own_row: the row in the file's metadata property `data_sample`; None without one.
        feature_names: what to call the values of a row; empty when the file does not say.
        categories: the values that the model's encoders list, by input.
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
        return self.spec.inputs if isinstance(self.spec, ColumnsSpec) else {self.names[0]: self.spec}

    def feed(self, rows: Rows) -> Mapping[str, Array]:
        """Return rows as ONNX Runtime takes them."""
        return rows.arrays if isinstance(rows, Columns) else {self.names[0]: rows}

    def as_json(self, rows: Rows) -> list[Any]:
        """Return rows in JSON's types, as a client sends them."""
        if isinstance(self.spec, ColumnsSpec):
            return self.spec.as_json(cast("Columns", rows))
        return self.spec.as_json(cast("Array", rows))

    def explain(self, rows: Rows, error: Exception) -> InvalidRowsError | None:
        """Return which value a model that failed does not take; None if that is unknown.

        Args:
            rows: the rows that it failed on.
            error: what ONNX Runtime says.
        """
        outside = _OUTSIDE.search(str(error))
        for name, array in self.feed(rows).items():
            if array.dtype.kind not in "iuO":
                continue
            values = array.ravel().tolist()
            if outside:
                wrong, first, last = map(int, outside.groups())
                unknown = {wrong}.intersection(values)
                expected = f"a whole number from {max(0, first)} to {last}"
            elif categories := self.categories.get(name):
                unknown = set(values).difference(categories)
                expected = ", ".join(map(repr, categories[:_MOST_CATEGORIES]))
                if len(categories) > _MOST_CATEGORIES:
                    expected += f" and {len(categories) - _MOST_CATEGORIES} more"
            else:
                continue
            if unknown:
                index = next(index for index, value in enumerate(values) if value in unknown)
                problem = f"is {repr(values[index])[:_SHOWN]}, which the model does not know; expected {expected}"
                return InvalidRowsError(self._position(name, index, array.shape), problem)
        return None

    def _position(self, name: str, index: int, shape: tuple[int, ...]) -> Position:
        """Return where the value of an index in an input's flat array is in the rows."""
        row, *rest = map(int, np.unravel_index(index, shape))
        if isinstance(self.spec, RowSpec):
            return (row, *rest)
        return (row, name) if shape[1:] == (1,) and not self.spec.values[name].row_shape else (row, name, *rest)


@dataclass(frozen=True)
class Trial:
    """One row, and what the outputs gave for a batch of it, by name."""

    row: Rows
    values: dict[str, Any]


def read_inputs(session: ort.InferenceSession, graph: Graph) -> Inputs:
    """Return what rows the model takes, by the file alone.

    Args:
        session: a session on the file.
        graph: the nodes of the file.

    Raises:
        StartError: its rows cannot come from a request. The reason goes on from the file's name: "has no inputs ...".
    """
    declared = session.get_inputs()
    if not declared:
        raise StartError(
            "model-inputs",
            "has no inputs: it answers the same whatever it is asked; expected rows as inputs",
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
        spec = ColumnsSpec(fixed, _ties(declared, fixed))
    categories = {name: found for name, value in specs.items() if (found := _categories(graph.categories(name), value))}
    return Inputs(list(specs), spec, _batch(declared), own_row, feature_names, categories)


def try_rows(session: ort.InferenceSession, inputs: Inputs) -> Iterator[Trial]:
    """Call the model on the row of its file and on made-up ones, which it may fail on only if it has a row of its own.

    Raises:
        StartError: it fails on its own row, or on all made-up ones.
    """
    own_row = inputs.own_row
    # Two rows: one that normalises divides zeros by zero, and zeros hide what only a bias makes look right.
    made_up = [_make_up(inputs, index) for index in range(2)]
    failure = ""
    tried = 0
    for row in made_up if own_row is None else [own_row, *made_up]:
        try:
            values = session.run(None, inputs.feed(repeat(row, inputs.batch or 1)))
        except Exception as error:
            if row is own_row:
                raise StartError(
                    "model-sample",
                    f'fails on the row in its property "{SAMPLE_PROPERTY}": {one_line(error)}',
                    "put a row there that it takes",
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
            remedy_of_error(failure) or f'put a row that it takes into its metadata property "{SAMPLE_PROPERTY}"',
        )


def _read_spec(found: ort.NodeArg) -> RowSpec:
    """Return type and shape of what one row has in an input."""
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
    """Return what encoders list, unless the input takes several values or values of another type."""
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
            f'takes {one} rows at once as its input "{name}", and {other} as its input "{another}"; expected one batch '
            "dimension",
            _EXPORT_SHAPE,
        )
    return next(iter(batches), None)


def _ties(declared: Sequence[ort.NodeArg], specs: Mapping[str, RowSpec]) -> list[list[tuple[str, int]]]:
    """Return the free dimensions that have one name in the file, as `ColumnsSpec` takes them."""
    ties = defaultdict(list)
    for found in declared:
        for axis, (dimension, length) in enumerate(zip(found.shape[1:], specs[found.name].row_shape, strict=True)):
            if isinstance(dimension, str) and length is None:
                ties[dimension].append((found.name, axis))
    return [tie for tie in ties.values() if len(tie) > 1]


def _make_up(inputs: Inputs, index: int) -> Rows:
    """Return a row of categories where the file lists them, and of zeros or ones and of some text elsewhere."""
    arrays = {}
    for name, spec in inputs.specs.items():
        listed = inputs.categories.get(name) or (_TEXTS if spec.is_text else (0, 1))
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
            f'has a metadata property "{SAMPLE_PROPERTY}" that is no row of it: {error}',
            f"make it a JSON list of one row: {spec.expected}",
        ) from error


def _feature_names(properties: Mapping[str, str], spec: RowSpec) -> Sequence[str]:
    """Return the names in the file's metadata property, unless it means something else by it."""
    try:
        names = orjson.loads(properties.get(NAMES_PROPERTY, "[]"))
    except orjson.JSONDecodeError:
        return ()
    are_names = isinstance(names, list) and spec.row_shape == (len(names),) and {str}.issuperset(map(type, names))
    return names if are_names else ()


def _with_fixed_width(name: str, spec: RowSpec, own_shape: tuple[int, ...] | None) -> tuple[int | None, ...]:
    """Return the shape of a row with a fixed number of floats or texts: operators may read past a row that is short.

    Args:
        name: name of the input.
        spec: type and shape by the file.
        own_shape: the shape in the file's own row; None without one.
    """
    if spec.row_shape != (None,) or spec.dtype.kind not in "fO":
        return spec.row_shape
    if own_shape is None:
        raise StartError(
            "model-input-shape",
            f'does not say how many {"strings" if spec.is_text else "numbers"} a row has in its input "{name}"',
            f'export it with a fixed number, or put a row into its metadata property "{SAMPLE_PROPERTY}"',
        )
    return own_shape
