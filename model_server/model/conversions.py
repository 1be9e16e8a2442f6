"""Converts the value of an output to predictions: probabilities of classes or of labels, or plain numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model_server.errors import StartError
from model_server.model.rows import Array
from model_server.model.tasks import OutputKind, Task

Extractor = Callable[[Any], Array]

_TOLERANCE = 0.01  # enough for the sum of a thousand float16 class probabilities


def make_number_extractor(value: object, *, is_dynamic: bool) -> Extractor | None:
    """Return a function that converts such output values to an array with numbers for each row; None if impossible."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or not value.ndim or not value.size:
        return None
    as_numbers: Extractor = (lambda array: array.astype(np.uint8)) if value.dtype.kind == "b" else (lambda array: array)
    if value[0].size == 1 and value.ndim > 1 and not is_dynamic:
        return lambda array: as_numbers(array).reshape(len(array))
    return as_numbers


def make_score_extractor(value: object, order: Sequence[str]) -> Extractor | None:
    """Return a function that converts such output values to an array of shape (rows, columns); None if impossible.

    Args:
        value: an output value.
        order: class names; the columns of a ZipMap with exactly these names are put in this order.

    Raises:
        StartError: a ZipMap has some of these names, but not all.
    """
    if isinstance(value, list) and value and all(isinstance(element, dict) for element in value):
        classes = list(value[0])
        unnamed = [f'"{name}"' for name in classes if name not in order]
        if len(classes) == len(order) and 0 < len(unnamed) < len(order):
            raise StartError(
                "labels-mismatch",
                f"has classes that LABEL_FILEPATH does not name: {', '.join(unnamed)}",
                "use the model's own names in the label file",
            )
        keys = order if set(classes) == set(order) else classes
        return lambda maps: np.array([[row[name] for name in keys] for row in maps], np.float32)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim and value.size:
        if value.ndim == 2:  # noqa: PLR2004 (a matrix)
            return lambda matrix: matrix
        columns = max(value.shape[1:], default=1)
        if value[0].size == columns:  # any other dimension is 1, as in (N, classes, 1, 1)
            return lambda tensor: tensor.reshape(len(tensor), -1)
    return None


def fits(kind: OutputKind, numbers: Array) -> bool:
    """Return whether finite numbers are possible values of an output of this kind."""
    match kind:
        case OutputKind.PROBABILITIES:
            return are_probabilities(numbers)
        case OutputKind.LOGITS:
            return bool(numbers.shape[1] > 1)
        case OutputKind.LOG_PROBABILITIES:
            return bool((numbers <= _TOLERANCE).all()) and are_probabilities(np.exp(numbers))
        case OutputKind.SIGMOID:
            return bool(((numbers >= -_TOLERANCE) & (numbers <= 1 + _TOLERANCE)).all())
        case OutputKind.SIGMOID_LOGITS | OutputKind.VALUES:
            return True


def are_probabilities(matrix: Array) -> bool:
    """Return whether each row is a distribution over two or more classes."""
    if matrix.shape[1] < 2:  # noqa: PLR2004 (one column cannot choose between classes)
        return False
    sums = matrix.sum(axis=1, dtype=np.float64)
    return bool((matrix >= -_TOLERANCE).all() and (abs(sums - 1) <= _TOLERANCE).all())


def conversion(kind: OutputKind, columns: int) -> tuple[Callable[[Array], Array] | None, Task]:
    """Return the function that converts output numbers to predictions (None if they need none), and the task."""
    single = _SINGLE_COLUMN_CONVERSIONS.get(kind) if columns == 1 else None
    return single or _CONVERSIONS[kind]


@np.errstate(invalid="ignore")  # an infinite score gives NaN; the caller checks for that
def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _sigmoid(logits: Array) -> Array:
    # Unlike 1 / (1 + exp(-x)), this never overflows.
    probabilities: Array = np.exp(-np.logaddexp(0, -logits, dtype=logits.dtype))
    return probabilities


def _two_class_probabilities(probabilities: Array) -> Array:
    return np.concatenate([1 - probabilities, probabilities], axis=1)


def _two_class_sigmoid(logits: Array) -> Array:
    return _sigmoid(np.concatenate([-logits, logits], axis=1))


_SINGLE_COLUMN_CONVERSIONS: dict[OutputKind, tuple[Callable[[Array], Array], Task]] = {
    OutputKind.SIGMOID: (_two_class_probabilities, Task.CLASSES),
    OutputKind.SIGMOID_LOGITS: (_two_class_sigmoid, Task.CLASSES),
}
_CONVERSIONS: dict[OutputKind, tuple[Callable[[Array], Array] | None, Task]] = {
    OutputKind.PROBABILITIES: (None, Task.CLASSES),
    OutputKind.LOGITS: (_softmax, Task.CLASSES),
    OutputKind.LOG_PROBABILITIES: (np.exp, Task.CLASSES),
    OutputKind.SIGMOID: (None, Task.MULTILABEL),
    OutputKind.SIGMOID_LOGITS: (_sigmoid, Task.MULTILABEL),
    OutputKind.VALUES: (None, Task.VALUES),
}
