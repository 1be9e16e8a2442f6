"""Which output of an ONNX file answers, and how its value becomes one prediction per row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import orjson

from model_server.errors import StartError
from model_server.model.advice import Answers, change_of_outputs, is_regressor
from model_server.model.conversions import Reader, are_probabilities, conversion, fits, matrix_reader, numbers_reader
from model_server.model.graph import Graph
from model_server.model.inputs import Trial
from model_server.model.rows import Array, Rows
from model_server.model.tasks import ModelOutput, OutputKind, Task

CLASS_NAMES_PROPERTY = "class_names"
_CLEARLY = 0.25
_WHAT_IT_HOLDS = {
    OutputKind.PROBABILITIES: "class probabilities, two or more numbers per row from 0 to 1 with a sum of 1",
    OutputKind.LOGITS: "two or more class scores per row",
    OutputKind.LOG_PROBABILITIES: "the logarithms of two or more class probabilities per row",
    OutputKind.SIGMOID: "independent probabilities from 0 to 1",
    OutputKind.SIGMOID_LOGITS: "the logits of independent probabilities",
    OutputKind.VALUES: "numbers for each row",
}


@dataclass(frozen=True)
class Output:
    """The output that answers.

    Attributes:
        name: its name in the file.
        kind: what its numbers are.
        task: what predictions it gives.
        shape: of one prediction; None for a dimension that is as long as the row.
        read: turns its value into an array with one prediction per row: of shape (rows, classes) for classes and
            labels; for values, of shape (rows,) or (rows, ...).
        names: of the classes or labels, in the order of their columns: from the label file, or else from the model
            itself. Empty for values, and if neither names them.
        sample: the first row with a finite answer.
        own_label: the class of that row by another output of the model; None if no output says it.
    """

    name: str
    kind: OutputKind
    task: Task
    shape: tuple[int | None, ...]
    read: Reader
    names: tuple[str, ...]
    sample: Rows
    own_label: str | int | None

    def fits(self, predictions: Array, rows: int) -> bool:
        """Return whether these can be the predictions for this many rows."""
        return len(predictions) == rows and (
            self.kind is not OutputKind.PROBABILITIES or are_probabilities(predictions)
        )


@dataclass(frozen=True)
class _Candidate:
    """An output whose numbers were those of a kind in every trial with a finite answer; the first such trial."""

    read: Reader
    shape: tuple[int, ...]
    task: Task
    trial: Trial

    @property
    def columns(self) -> int:
        """The number of classes or labels."""
        return self.shape[0] if self.task is not Task.VALUES else 0


@dataclass(frozen=True)
class OutputsOfFile:
    """What is known of the outputs of a file.

    Attributes:
        declared: the outputs as the file declares them, each with `name`, `type` and `shape`.
        free: the names of the dimensions of its inputs that vary from row to row.
        trials: calls of the model.
        batch: how many rows each trial was given.
        graph: the nodes of the file.
        class_names: the file's metadata property `class_names`; None without one.
        producer: what wrote the file, as recorded in it.
    """

    declared: Sequence[ort.NodeArg]
    free: frozenset[str]
    trials: Sequence[Trial]
    batch: int
    graph: Graph
    class_names: str | None
    producer: str

    @property
    def names(self) -> list[str]:
        """The names of the outputs."""
        return [output.name for output in self.declared]


def find_output(file: OutputsOfFile, labels: Sequence[str] | None, choice: ModelOutput | None) -> Output:
    """Return the output that answers.

    Without a choice, it is the one with class probabilities, or else the one that a regressor of `ai.onnx.ml` computes.

    Args:
        file: the outputs.
        labels: name of each class by the label file, in whose order the string classes of a ZipMap are put; None
            without one.
        choice: which output answers, and what it holds; None if neither the setting nor the file says.

    Raises:
        StartError: there is none, or not one with as many classes as there are labels. The reason continues the
            sentence after the file's name.
    """
    own_names = _names_in_property(file.class_names)
    order = labels or own_names
    kind = choice.kind if choice else OutputKind.PROBABILITIES
    found = _candidates(file, kind, _wanted(file, choice), order)
    if not found and choice is None:
        regressors = [name for name in file.names if is_regressor(file.graph.maker(name))]
        kind = OutputKind.VALUES
        found = _candidates(file, kind, regressors, ())
    if not found:
        raise _none_found(file, choice)
    name, chosen = _choose(found, kind, labels)
    names = () if chosen.task is Task.VALUES else _names(file, name, chosen, labels, own_names)
    own_label = _own_label(file, name, chosen.trial) if chosen.task is Task.CLASSES else None
    return Output(
        name=name,
        kind=kind,
        task=chosen.task,
        shape=_shape(file, name, chosen),
        read=chosen.read,
        names=names,
        sample=chosen.trial.row,
        own_label=own_label,
    )


def _wanted(file: OutputsOfFile, choice: ModelOutput | None) -> list[str]:
    if not (choice and choice.name):
        return file.names
    if choice.name not in file.names:
        raise StartError(
            "model-output",
            f'has no output "{choice.name}", which MODEL_OUTPUT or its property "model_output" names; its outputs are '
            f"{_listed(file.names)}",
            f"set MODEL_OUTPUT={choice.kind}:{file.names[-1]}",
        )
    return [choice.name]


def _shape(file: OutputsOfFile, name: str, chosen: _Candidate) -> tuple[int | None, ...]:
    [declared] = [(output.shape or ())[1:] for output in file.declared if output.name == name]
    if len(declared) != len(chosen.shape):
        return chosen.shape
    return tuple(
        None if str(length) in file.free else found for length, found in zip(declared, chosen.shape, strict=True)
    )


def _candidates(
    file: OutputsOfFile, kind: OutputKind, names: Sequence[str], order: Sequence[str]
) -> dict[str, _Candidate]:
    free = {output.name for output in file.declared if file.free.intersection(map(str, (output.shape or ())[1:]))}
    return {
        name: candidate
        for name in names
        if (kind is OutputKind.VALUES or name not in free)
        and (candidate := _candidate(file, name, kind, order, is_free=name in free))
    }


def _candidate(
    file: OutputsOfFile, name: str, kind: OutputKind, order: Sequence[str], *, is_free: bool
) -> _Candidate | None:
    candidate = None
    for trial in file.trials:
        value = trial.values[name]
        is_values = kind is OutputKind.VALUES
        reader = numbers_reader(value, is_free=is_free) if is_values else matrix_reader(value, order)
        if reader is None or len(numbers := reader(value)) != file.batch:
            return None
        convert, task = conversion(kind, 0 if is_values else numbers.shape[1])
        read = _composed(convert, reader) if convert else reader
        predictions = read(value)
        if not np.isfinite(predictions).all():
            continue
        if not fits(kind, numbers):
            return None
        candidate = candidate or _Candidate(read, predictions.shape[1:], task, trial)
    return candidate


def _composed(convert: Callable[[Array], Array], reader: Reader) -> Reader:
    return lambda value: convert(reader(value))


def _choose(found: Mapping[str, _Candidate], kind: OutputKind, labels: Sequence[str] | None) -> tuple[str, _Candidate]:
    fitting = {
        name: candidate
        for name, candidate in found.items()
        if labels is None or candidate.task is Task.VALUES or candidate.columns == len(labels)
    }
    if not fitting:
        counts = " or ".join(str(candidate.columns) for candidate in found.values())
        raise StartError(
            "labels-mismatch",
            f"has {counts} classes but LABEL_FILEPATH names {len(labels or ())}; expected one name per class",
            "take the label file of this model, or write one with its classes in the order of their probabilities",
        )
    if len(fitting) > 1:
        raise StartError(
            "model-outputs",
            f"has {len(fitting)} outputs that may be {_WHAT_IT_HOLDS[kind].partition(',')[0]} "
            f"({_listed(list(fitting))}); expected one",
            f"set MODEL_OUTPUT={kind}:{next(iter(fitting))} for the first of them",
        )
    return next(iter(fitting.items()))


def _names(
    file: OutputsOfFile, output: str, chosen: _Candidate, labels: Sequence[str] | None, own: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names of the classes: of the label file, of the property, of the maps, or of an operator."""
    if labels is not None:
        for trial in file.trials:
            _check_own_label(trial, chosen.read(trial.values[output]), labels)
        return tuple(labels)
    if own:
        if len(own) != chosen.columns:
            raise StartError(
                "labels-mismatch",
                f'has {chosen.columns} classes but its metadata property "{CLASS_NAMES_PROPERTY}" names {len(own)}; '
                "expected one name per class",
                "correct the property, or give the model a label file",
            )
        return own
    value = chosen.trial.values[output]
    if isinstance(value, list):
        keys = list(value[0])
        return tuple(keys) if all(isinstance(key, str) for key in keys) else ()
    texts = [name for name in file.names if _is_text(chosen.trial.values[name])]
    names = file.graph.class_names([output, *texts])
    return names if len(names) == chosen.columns == len(set(names)) else ()


def _names_in_property(text: str | None) -> tuple[str, ...]:
    """Return the names in the property, unless it means something else by it."""
    try:
        names = orjson.loads(text or "[]")
    except orjson.JSONDecodeError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _check_own_label(trial: Trial, matrix: Array, labels: Sequence[str]) -> None:
    """Refuse labels in another order than the model's own, where the model names the class of the row itself."""
    for value in trial.values.values():
        own = value.flat[0] if _is_text(value) else None
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


def _own_label(file: OutputsOfFile, output: str, trial: Trial) -> str | int | None:
    for name, value in trial.values.items():
        is_label = isinstance(value, np.ndarray) and (_is_text(value) or value.dtype.kind in "iu")
        if name != output and is_label and value.shape in ((file.batch,), (file.batch, 1)):
            label = value.flat[0]
            return str(label) if _is_text(value) else int(label)
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object and value.size > 0


def _none_found(file: OutputsOfFile, choice: ModelOutput | None) -> StartError:
    trial = file.trials[0]
    found = {name: value for name, value in trial.values.items() if not (choice and choice.name not in ("", name))}
    shown = ", ".join(f'"{name}" is {_shown(value)}' for name, value in found.items())
    free = [output.name for output in file.declared if file.free.intersection(map(str, (output.shape or ())[1:]))]
    change = change_of_outputs(Answers(found, file.graph, free, file.batch, file.producer))
    if choice is None:
        return StartError(
            "model-output",
            f"does not say what its output is: {shown}; expected {_WHAT_IT_HOLDS[OutputKind.PROBABILITIES]}, or what a "
            "regressor computes",
            change,
        )
    return StartError(
        "model-output",
        f'has no output like MODEL_OUTPUT or its property "model_output" says: {shown}; expected '
        f"{_WHAT_IT_HOLDS[choice.kind]}",
        change,
    )


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{'text' if value.dtype == object else value.dtype} of shape {value.shape}"
    if isinstance(value, list):
        first = value[0] if value else None
        return f"a sequence of {'maps' if isinstance(first, dict) else 'tensors'}"
    return "no tensor"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
