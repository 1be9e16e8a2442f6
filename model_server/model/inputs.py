"""The rows that an ONNX file takes, found out from the file alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from model_server.errors import StartError
from model_server.model.remedies import one_line
from model_server.model.rows import Array, RowSpec

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
}
_EXPORT_ONE_INPUT = (
    "export it with a single input, for scikit-learn with initial_types=[("
    '"rows", FloatTensorType([None, number_of_columns]))], for PyTorch from a module that takes one tensor'
)
_EXPORT_SHAPE = 'export it with the shape of a row after a free batch dimension, as in ["N", 4]'
_MAX_NUMBERS = 1 << 24  # a body of 32 MiB has no more, and Python takes 500 MB for as many


@dataclass(frozen=True)
class Inputs:
    """How rows are given to a model.

    Attributes:
        name: name of its only input.
        spec: type and shape of the rows of that input.
        batch: how many rows it takes at once, or None for any number.
        own_row: the row in the file's metadata property `data_sample`, of shape (1, *row_shape); None without one.
        feature_names: what to call the values of a row; empty when the file does not say.
    """

    name: str
    spec: RowSpec
    batch: int | None
    own_row: Array | None
    feature_names: Sequence[str]

    def feed(self, rows: Array) -> dict[str, Array]:
        """Return rows as ONNX Runtime takes them."""
        return {self.name: rows}


@dataclass(frozen=True)
class Trial:
    """A row of shape (1, *row_shape) and what the outputs gave for a batch of it, by name."""

    row: Array
    values: dict[str, Any]


def read_inputs(session: ort.InferenceSession) -> Inputs:
    """Return what rows the model takes, by the file alone.

    Raises:
        StartError: its rows cannot come from a request. The reason goes on from the file's name: "has 2 inputs ...".
    """
    name, spec, batch = _read_input(session)
    properties = session.get_modelmeta().custom_metadata_map
    own_row = _own_row(properties, spec)
    spec = _with_fixed_width(spec, own_row)
    return Inputs(name, spec, batch, own_row, _feature_names(properties, spec))


def try_rows(session: ort.InferenceSession, inputs: Inputs) -> Iterator[Trial]:
    """Call the model on the row of its file and on made-up ones, which it may fail on only if it has a row of its own.

    Raises:
        StartError: it fails on its own row, or on all made-up ones.
    """
    spec, own_row = inputs.spec, inputs.own_row
    shape = (1, *(dimension or 1 for dimension in spec.row_shape))
    # Two rows: one that normalises divides zeros by zero, and zeros hide what only a bias makes look right.
    made_up = [np.full(shape, value, spec.dtype) for value in (0, 1)]
    failure = ""
    tried = 0
    for row in made_up if own_row is None else [own_row, *made_up]:
        try:
            values = session.run(None, inputs.feed(np.repeat(row, inputs.batch or 1, axis=0)))
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
        raise StartError(
            "model-sample",
            f"fails on a row of the shape {spec.row_shape} that it declares: {failure}",
            f'put a row that it takes into its metadata property "{SAMPLE_PROPERTY}"',
        )


def _read_input(session: ort.InferenceSession) -> tuple[str, RowSpec, int | None]:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(f'"{found.name}"' for found in inputs) or "none"
        raise StartError(
            "model-inputs", f"has {len(inputs)} inputs ({names}); expected one tensor of rows", _EXPORT_ONE_INPUT
        )
    [found] = inputs
    if found.type not in _INPUT_TYPES:
        raise StartError(
            "model-input-type",
            f'takes {found.type} as its input "{found.name}"; expected a tensor of numbers',
            "make numbers of the texts before the model, and export the model alone",
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
    return found.name, RowSpec(np.dtype(_INPUT_TYPES[found.type]), tuple(row_shape)), batch


def _own_row(properties: Mapping[str, str], spec: RowSpec) -> Array | None:
    text = properties.get(SAMPLE_PROPERTY)
    if text is None:
        return None
    try:
        return spec.array(orjson.loads(text))[:1]
    except ValueError as error:
        raise StartError(
            "model-sample",
            f'has a metadata property "{SAMPLE_PROPERTY}" that is no row of it: {error}',
            f"make it a JSON list of one row of the shape {spec.row_shape}",
        ) from error


def _feature_names(properties: Mapping[str, str], spec: RowSpec) -> Sequence[str]:
    """Return the names in the file's metadata property, unless it means something else by it."""
    try:
        names = orjson.loads(properties.get(NAMES_PROPERTY, "[]"))
    except orjson.JSONDecodeError:
        return ()
    are_names = isinstance(names, list) and spec.row_shape == (len(names),) and {str}.issuperset(map(type, names))
    return names if are_names else ()


def _with_fixed_width(spec: RowSpec, own_row: Array | None) -> RowSpec:
    """Fix the number of features of a float matrix; some operators read past a row that is too short."""
    if spec.row_shape != (None,) or spec.dtype.kind != "f":
        return spec
    if own_row is None:
        raise StartError(
            "model-input-shape",
            "does not say how many numbers a row has",
            f'export it with a fixed number, or put a row into its metadata property "{SAMPLE_PROPERTY}"',
        )
    return RowSpec(spec.dtype, own_row.shape[1:])
