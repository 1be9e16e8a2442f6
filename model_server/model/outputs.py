"""Which output of an ONNX file holds the class probabilities, found out from what it has answered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_server.errors import StartError
from model_server.model.inputs import Trial
from model_server.model.rows import Array, Rows

Reader = Callable[[Any], Array]

_EXPORT_PROBABILITIES = (
    "export class probabilities, for scikit-learn with skl2onnx of a classifier that has predict_proba (an SVC has it "
    "with probability=True), for a neural network with a softmax at its end"
)
_TOLERANCE = 0.01  # float16 probabilities of a thousand classes sum to 1 within this
_CLEARLY = 0.25


@dataclass(frozen=True)
class Output:
    """An output that gave class probabilities in every trial with a finite answer.

    Attributes:
        name: its name in the file.
        to_matrix: turns its value into an array of shape (rows, classes).
        classes: how many there are.
        names: what it calls the classes itself; empty if it is a tensor.
        sample: the first row with a finite answer.
    """

    name: str
    to_matrix: Reader
    classes: int
    names: tuple[str, ...]
    sample: Rows


def find_output(names: Sequence[str], trials: Sequence[Trial], labels: Sequence[str] | None, batch: int) -> Output:
    """Return the output with the class probabilities.

    Args:
        names: those of all outputs.
        trials: calls of the model.
        labels: name of each class; string classes of a ZipMap are put in this order. None takes any number of classes.
        batch: how many rows each trial was given.

    Raises:
        StartError: there is none, or not one with as many classes as there are labels.
    """
    found = {name: candidate for name in names if (candidate := _candidate(name, trials, labels or (), batch))}
    if not found:
        raise StartError("model-not-classifier", f"is no classifier: {_describe(trials[0])}", _EXPORT_PROBABILITIES)
    chosen = _choose(found, None if labels is None else len(labels))
    for trial in trials:
        _check_own_label(trial, chosen.to_matrix(trial.values[chosen.name]), labels or ())
    return chosen


def are_probabilities(matrix: Array, rows: int) -> bool:
    """Return whether this is a distribution over two or more classes for each of so many rows."""
    if len(matrix) != rows or matrix.shape[1] < 2:  # noqa: PLR2004 (one column is no choice between classes)
        return False
    sums = matrix.sum(axis=1, dtype=np.float64)
    return bool((matrix >= -_TOLERANCE).all() and (abs(sums - 1) <= _TOLERANCE).all())


def _candidate(output: str, trials: Sequence[Trial], labels: Sequence[str], batch: int) -> Output | None:
    candidate = None
    for trial in trials:
        to_matrix = _reader(trial.values[output], labels)
        if to_matrix is None:
            return None
        matrix = to_matrix(trial.values[output])
        if not np.isfinite(matrix).all():
            continue
        if not are_probabilities(matrix, batch):
            return None
        candidate = candidate or Output(output, to_matrix, matrix.shape[1], _own_names(trial.values[output]), trial.row)
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


def _choose(found: Mapping[str, Output], labels: int | None) -> Output:
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
    return fitting.popitem()[1]


def _check_own_label(trial: Trial, matrix: Array, labels: Sequence[str]) -> None:
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


def _describe(trial: Trial) -> str:
    kinds = ", ".join(
        f'"{output}" is {f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else "no tensor"}'
        for output, value in trial.values.items()
    )
    return f"{kinds}, and none holds two or more class probabilities a row, from 0 to 1 with a sum of 1"
