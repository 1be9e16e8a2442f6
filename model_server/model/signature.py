"""What an ONNX file is, found out from the file alone: the rows it takes and where its class probabilities are."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from model_server.errors import StartError
from model_server.model.rows import Array, RowSpec

SAMPLE_PROPERTY = "data_sample"
NAMES_PROPERTY = "feature_names"

Reader = Callable[[Any], Array]

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
_EXPORT_PROBABILITIES = (
    "export class probabilities, for scikit-learn with skl2onnx of a classifier that has predict_proba (an SVC has it "
    "with probability=True), for a neural network with a softmax at its end"
)
_EXPORT_ONE_INPUT = (
    "export it with a single input, for scikit-learn with initial_types=[("
    '"rows", FloatTensorType([None, number_of_columns]))], for PyTorch from a module that takes one tensor'
)
_EXPORT_SHAPE = 'export it with the shape of a row after a free batch dimension, as in ["N", 4]'
_MAX_NUMBERS = 1 << 24  # a body of 32 MiB has no more, and Python takes 500 MB for as many
_TOLERANCE = 0.01  # float16 probabilities of a thousand classes sum to 1 within this
_CLEARLY = 0.25


@dataclass(frozen=True)
class Signature:
    """How to call a classifier.

    Attributes:
        input: name of its only input.
        spec: type and shape of the rows of that input.
        batch: how many rows it takes at once, or None for any number.
        output: name of the output with the probabilities.
        to_matrix: turns that output's value into an array of shape (rows, classes).
        sample: a row that it has answered, of shape (1, *row_shape).
        names: what that output itself calls the classes; empty if it is a tensor.
        outputs: all outputs as the file declares them, each with `name`, `type` and `shape`.
        properties: the metadata properties of the file.
        producer: what wrote the file, by its own account.
        feature_names: what to call the values of a row; empty when the file does not say.
    """

    input: str
    spec: RowSpec
    batch: int | None
    output: str
    to_matrix: Reader
    sample: Array
    names: tuple[str, ...]
    outputs: Sequence[ort.NodeArg]
    properties: Mapping[str, str]
    producer: str
    feature_names: Sequence[str]


@dataclass(frozen=True)
class _Trial:
    """A row of shape (1, *row_shape) and what the outputs gave for a batch of it, by name."""

    row: Array
    values: dict[str, Any]


@dataclass(frozen=True)
class _Candidate:
    """An output that gave class probabilities in every trial with a finite answer, the first of them for `sample`."""

    to_matrix: Reader
    classes: int
    names: tuple[str, ...]
    sample: Array


def read_signature(session: ort.InferenceSession, labels: Sequence[str] | None) -> Signature:
    """Return how to call the classifier, having called it.

    It is tried on the row in the file's metadata property `data_sample` and on made-up rows, which it may fail on
    only if it has a row of its own.

    Args:
        session: a session on the file.
        labels: name of each class; string classes of a ZipMap are put in this order. None takes any number of classes.

    Raises:
        StartError: the file is no classifier, or has not as many classes as there are labels. The reason goes on
            from the file's name: "has 2 inputs ...".
    """
    name, spec, batch = _read_input(session)
    meta = session.get_modelmeta()
    own_row = _own_row(meta.custom_metadata_map, spec)
    spec = _with_fixed_width(spec, own_row)
    trials = list(_trials(session, name, spec, batch or 1, own_row))
    found = {
        output.name: candidate
        for output in session.get_outputs()
        if (candidate := _candidate(output.name, trials, labels or (), batch or 1))
    }
    if not found:
        raise StartError("model-not-classifier", f"is no classifier: {_describe(trials[0])}", _EXPORT_PROBABILITIES)
    output, chosen = _choose(found, None if labels is None else len(labels))
    for trial in trials:
        _check_own_label(trial, chosen.to_matrix(trial.values[output]), labels or ())
    signature = Signature(
        input=name,
        spec=spec,
        batch=batch,
        output=output,
        to_matrix=chosen.to_matrix,
        sample=chosen.sample,
        names=chosen.names,
        outputs=session.get_outputs(),
        properties=meta.custom_metadata_map,
        producer=meta.producer_name,
        feature_names=_feature_names(meta.custom_metadata_map, spec),
    )
    return signature if batch or _takes_two(session, signature) else replace(signature, batch=1)


def one_line(error: object) -> str:
    """Return an error of ONNX Runtime as the one line that says what happened."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", text)
    # Without where in its source it happened, for one takes that for a file of one's own.
    return re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? (?=\w)", "", text).rstrip(".")


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


def _trials(
    session: ort.InferenceSession, name: str, spec: RowSpec, batch: int, own_row: Array | None
) -> Iterator[_Trial]:
    shape = (1, *(dimension or 1 for dimension in spec.row_shape))
    # Two rows: one that normalises divides zeros by zero, and zeros hide what only a bias makes look right.
    made_up = [np.full(shape, value, spec.dtype) for value in (0, 1)]
    failure = ""
    tried = 0
    for row in made_up if own_row is None else [own_row, *made_up]:
        try:
            values = session.run(None, {name: np.repeat(row, batch, axis=0)})
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
        yield _Trial(row, dict(zip((output.name for output in session.get_outputs()), values, strict=True)))
    if not tried:
        raise StartError(
            "model-sample",
            f"fails on a row of the shape {spec.row_shape} that it declares: {failure}",
            f'put a row that it takes into its metadata property "{SAMPLE_PROPERTY}"',
        )


def _candidate(output: str, trials: Sequence[_Trial], labels: Sequence[str], batch: int) -> _Candidate | None:
    candidate = None
    for trial in trials:
        to_matrix = _reader(trial.values[output], labels)
        if to_matrix is None:
            return None
        matrix = to_matrix(trial.values[output])
        if not np.isfinite(matrix).all():
            continue
        if not _are_probabilities(matrix, batch):
            return None
        candidate = candidate or _Candidate(to_matrix, matrix.shape[1], _own_names(trial.values[output]), trial.row)
    return candidate


def _reader(value: object, labels: Sequence[str]) -> Reader | None:
    """Return what turns values like this one into an array of shape (rows, columns), or None if nothing does."""
    if isinstance(value, list) and value and all(isinstance(element, dict) for element in value):
        classes = list(value[0])
        unnamed = [f'"{name}"' for name in classes if name not in labels]
        if len(classes) == len(labels) and 0 < len(unnamed) < len(labels):
            raise StartError(
                "labels-mismatch",
                f"has classes that LABEL_FILEPATH calls by other names: {', '.join(unnamed)}",
                "give the label file the model's own names",
            )
        order = labels if set(classes) == set(labels) else classes
        return lambda maps: np.array([[row[name] for name in order] for row in maps], np.float32)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim > 1 and value.size:
        if value.ndim == 2:  # noqa: PLR2004 (a matrix)
            return lambda matrix: matrix
        columns = max(value.shape[1:])
        if value[0].size == columns:  # any other dimension is 1, as in (N, classes, 1, 1)
            return lambda tensor: tensor.reshape(len(tensor), -1)
    return None


def _own_names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value[0])) if isinstance(value, list) else ()


def _are_probabilities(matrix: Array, rows: int) -> bool:
    if len(matrix) != rows or matrix.shape[1] < 2:  # noqa: PLR2004 (one column is no choice between classes)
        return False
    sums = matrix.sum(axis=1, dtype=np.float64)
    return bool((matrix >= -_TOLERANCE).all() and (abs(sums - 1) <= _TOLERANCE).all())


def _choose(found: Mapping[str, _Candidate], labels: int | None) -> tuple[str, _Candidate]:
    fitting = {output: candidate for output, candidate in found.items() if labels in (None, candidate.classes)}
    if not fitting:
        counts = " or ".join(str(candidate.classes) for candidate in found.values())
        raise StartError(
            "labels-mismatch",
            f"has {counts} classes but LABEL_FILEPATH names {labels}; expected one name a class",
            "take the label file of this model, or write one with its classes in the order of their probabilities",
        )
    if len(fitting) > 1:
        names = ", ".join(f'"{output}"' for output in fitting)
        raise StartError(
            "model-outputs",
            f"has {len(fitting)} outputs that may be the class probabilities ({names}); expected one",
            "remove the others from the outputs of its graph",
        )
    return fitting.popitem()


def _check_own_label(trial: _Trial, matrix: Array, labels: Sequence[str]) -> None:
    """Refuse labels in another order than the model's own, where the model names the class of the row itself."""
    for value in trial.values.values():
        own = value[0] if isinstance(value, np.ndarray) and value.dtype == object and value.size else None
        if own not in labels:
            continue
        ours = int(matrix[0].argmax())
        # A model may prefer another class than the most probable one, but not by far.
        if matrix[0, ours] - matrix[0, labels.index(own)] > _CLEARLY:
            raise StartError(
                "labels-mismatch",
                f'calls a row "{own}" whose most probable class LABEL_FILEPATH calls "{labels[ours]}"; expected the '
                "names in the order of its columns",
                "put them in that order, for scikit-learn that of classes_",
            )


def _takes_two(session: ort.InferenceSession, signature: Signature) -> bool:
    """Return whether the model keeps its word on a free batch dimension; some are exported with a fixed one inside."""
    try:
        [value] = session.run([signature.output], {signature.input: np.repeat(signature.sample, 2, axis=0)})
    except Exception:  # noqa: BLE001 (as above)
        return False
    return _are_probabilities(signature.to_matrix(value), 2)


def _describe(trial: _Trial) -> str:
    kinds = ", ".join(
        f'"{output}" is {f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else "no tensor"}'
        for output, value in trial.values.items()
    )
    return f"{kinds}, and none holds two or more class probabilities a row, from 0 to 1 with a sum of 1"
