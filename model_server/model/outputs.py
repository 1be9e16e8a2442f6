"""Selects the model output to serve, and converts its value to one prediction per row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import orjson

from model_server.errors import StartError
from model_server.model.advice import TrialOutputs, is_regressor, suggest_output_fix
from model_server.model.conversions import (
    Extractor,
    are_probabilities,
    conversion,
    fits,
    make_number_extractor,
    make_score_extractor,
)
from model_server.model.graph import Graph
from model_server.model.inputs import Trial
from model_server.model.rows import Array, Rows
from model_server.model.tasks import ModelOutput, OutputKind, Task

CLASS_NAMES_PROPERTY = "class_names"
_CLEAR_MARGIN = 0.25  # difference of two probabilities
_DESCRIPTIONS = {
    OutputKind.PROBABILITIES: "class probabilities, two or more numbers per row from 0 to 1 with a sum of 1",
    OutputKind.LOGITS: "two or more class scores per row",
    OutputKind.LOG_PROBABILITIES: "the logarithms of two or more class probabilities per row",
    OutputKind.SIGMOID: "independent probabilities from 0 to 1",
    OutputKind.SIGMOID_LOGITS: "the logits of independent probabilities",
    OutputKind.VALUES: "numbers for each row",
}


@dataclass(frozen=True)
class Output:
    """The output that is served.

    Attributes:
        name: name of the output in the file.
        kind: the kind of its numbers.
        task: the kind of predictions.
        shape: shape of one prediction; None for a dynamic dimension.
        extract: converts the output value to an array with one prediction per row: of shape (rows, classes) for classes
            and labels; for values, of shape (rows,) or (rows, ...).
        names: class or label names in the order of their columns, from the label file or else from the model. Empty for
            values, and if neither has names.
        sample: the first row with a finite answer.
        model_label: the sample's class according to another output of the model; None without such an output.
    """

    name: str
    kind: OutputKind
    task: Task
    shape: tuple[int | None, ...]
    extract: Extractor
    names: tuple[str, ...]
    sample: Rows
    model_label: str | int | None

    def fits(self, predictions: Array, rows: int) -> bool:
        """Return whether an array can hold the predictions for this number of rows."""
        return len(predictions) == rows and (
            self.kind is not OutputKind.PROBABILITIES or are_probabilities(predictions)
        )


@dataclass(frozen=True)
class _Candidate:
    """An output whose values fit the kind in every trial that has a finite answer; `trial` is the first of these."""

    extract: Extractor
    shape: tuple[int, ...]
    task: Task
    trial: Trial

    @property
    def columns(self) -> int:
        """Number of classes or labels; 0 for values."""
        return self.shape[0] if self.task is not Task.VALUES else 0


@dataclass(frozen=True)
class FileOutputs:
    """The outputs of a file, as declared and as observed in trials.

    Attributes:
        declared: the outputs as the file declares them, each with `name`, `type` and `shape`.
        dynamic_dimensions: names of the input dimensions whose length differs between rows.
        trials: the calls of the model.
        batch: number of rows in each trial.
        graph: the nodes of the file.
        class_names: the file's metadata property `class_names`; None without one.
        producer: the tool that wrote the file, as recorded in it.
    """

    declared: Sequence[ort.NodeArg]
    dynamic_dimensions: frozenset[str]
    trials: Sequence[Trial]
    batch: int
    graph: Graph
    class_names: str | None
    producer: str

    @property
    def names(self) -> list[str]:
        """Names of the outputs."""
        return [output.name for output in self.declared]

    @property
    def dynamic_outputs(self) -> list[str]:
        """Names of the outputs with a dynamic dimension."""
        return [
            output.name
            for output in self.declared
            if self.dynamic_dimensions.intersection(map(str, (output.shape or ())[1:]))
        ]


def find_output(file: FileOutputs, labels: Sequence[str] | None, choice: ModelOutput | None) -> Output:
    """Return the output to serve.

    Without a choice, this is the output with class probabilities, or else the output of an `ai.onnx.ml` regressor.

    Args:
        file: the outputs.
        labels: class names from the label file; string classes of a ZipMap are put in their order. None without a file.
        choice: output and kind that the setting or the file names; None if neither names one.

    Raises:
        StartError: no output can be served, or none has as many classes as there are labels. The reason continues a
            sentence that starts with the file's name.
    """
    own_names = _names_in_property(file.class_names)
    order = labels or own_names
    kind = choice.kind if choice else OutputKind.PROBABILITIES
    found = _candidates(file, kind, _eligible_names(file, choice), order)
    if not found and choice is None:
        regressors = [name for name in file.names if is_regressor(file.graph.source_operator(name))]
        kind = OutputKind.VALUES
        found = _candidates(file, kind, regressors, ())
    if not found:
        raise _no_output_error(file, choice)
    name, chosen = _choose(found, kind, labels)
    names = () if chosen.task is Task.VALUES else _names(file, name, chosen, labels, own_names)
    model_label = _model_label(file, name, chosen.trial) if chosen.task is Task.CLASSES else None
    return Output(
        name=name,
        kind=kind,
        task=chosen.task,
        shape=_shape(file, name, chosen),
        extract=chosen.extract,
        names=names,
        sample=chosen.trial.row,
        model_label=model_label,
    )


def _eligible_names(file: FileOutputs, choice: ModelOutput | None) -> list[str]:
    if not (choice and choice.name):
        return file.names
    if choice.name not in file.names:
        raise StartError(
            "model-output",
            f'has no output "{choice.name}", which MODEL_OUTPUT or its property "model_output" names; expected one of '
            f"{_listed(file.names)}",
            f"set MODEL_OUTPUT={choice.kind}:{file.names[-1]}",
        )
    return [choice.name]


def _shape(file: FileOutputs, name: str, chosen: _Candidate) -> tuple[int | None, ...]:
    [declared] = [(output.shape or ())[1:] for output in file.declared if output.name == name]
    if len(declared) != len(chosen.shape):
        return chosen.shape
    return tuple(
        None if str(length) in file.dynamic_dimensions else found
        for length, found in zip(declared, chosen.shape, strict=True)
    )


def _candidates(
    file: FileOutputs, kind: OutputKind, names: Sequence[str], order: Sequence[str]
) -> dict[str, _Candidate]:
    dynamic = set(file.dynamic_outputs)
    return {
        name: candidate
        for name in names
        if (kind is OutputKind.VALUES or name not in dynamic)
        and (candidate := _candidate(file, name, kind, order, is_dynamic=name in dynamic))
    }


def _candidate(
    file: FileOutputs, name: str, kind: OutputKind, order: Sequence[str], *, is_dynamic: bool
) -> _Candidate | None:
    candidate = None
    for trial in file.trials:
        value = trial.values[name]
        is_values = kind is OutputKind.VALUES
        extractor = (
            make_number_extractor(value, is_dynamic=is_dynamic) if is_values else make_score_extractor(value, order)
        )
        if extractor is None or len(numbers := extractor(value)) != file.batch:
            return None
        convert, task = conversion(kind, 0 if is_values else numbers.shape[1])
        extract = _composed(convert, extractor) if convert else extractor
        predictions = extract(value)
        if not np.isfinite(predictions).all():
            continue
        if not fits(kind, numbers):
            return None
        candidate = candidate or _Candidate(extract, predictions.shape[1:], task, trial)
    return candidate


def _composed(convert: Callable[[Array], Array], extractor: Extractor) -> Extractor:
    return lambda value: convert(extractor(value))


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
            "use the label file of this model, or write one with its classes in the order of their probabilities",
        )
    if len(fitting) > 1:
        raise StartError(
            "model-outputs",
            f"has {len(fitting)} outputs that can be {_DESCRIPTIONS[kind].partition(',')[0]} "
            f"({_listed(list(fitting))}); expected one",
            f"set MODEL_OUTPUT={kind}:{next(iter(fitting))} for the first of them",
        )
    return next(iter(fitting.items()))


def _names(
    file: FileOutputs, output: str, chosen: _Candidate, labels: Sequence[str] | None, own: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the class names from the label file, the property, the ZipMap or an operator, in this order."""
    if labels is not None:
        for trial in file.trials:
            _check_model_label(trial, chosen.extract(trial.values[output]), labels)
        return tuple(labels)
    if own:
        if len(own) != chosen.columns:
            raise StartError(
                "labels-mismatch",
                f'has {chosen.columns} classes but its metadata property "{CLASS_NAMES_PROPERTY}" names {len(own)}; '
                "expected one name per class",
                "correct the property, or provide a label file",
            )
        return own
    value = chosen.trial.values[output]
    if isinstance(value, list):
        keys = list(value[0])
        return tuple(keys) if all(isinstance(key, str) for key in keys) else ()
    text_outputs = [name for name in file.names if _is_text(chosen.trial.values[name])]
    names = file.graph.class_names([output, *text_outputs])
    return names if len(names) == chosen.columns == len(set(names)) else ()


def _names_in_property(text: str | None) -> tuple[str, ...]:
    """Return the names in the property; empty unless it is a JSON list of strings."""
    try:
        names = orjson.loads(text or "[]")
    except orjson.JSONDecodeError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _check_model_label(trial: Trial, matrix: Array, labels: Sequence[str]) -> None:
    """Check the order of the labels against the class names that the model outputs for the trial.

    Raises:
        StartError: the order differs.
    """
    for value in trial.values.values():
        own = value.flat[0] if _is_text(value) else None
        if own not in labels:
            continue
        most_probable = int(matrix[0].argmax())
        # A model may output a class other than the most probable one, but only if their probabilities are close.
        if matrix[0, most_probable] - matrix[0, labels.index(own)] > _CLEAR_MARGIN:
            raise StartError(
                "labels-mismatch",
                f'outputs the class "{own}" for a row, but LABEL_FILEPATH names its most probable class '
                f'"{labels[most_probable]}"; expected the names in the order of the model\'s columns',
                "sort the label file in that order, for scikit-learn the order of classes_",
            )


def _model_label(file: FileOutputs, output: str, trial: Trial) -> str | int | None:
    for name, value in trial.values.items():
        is_label = isinstance(value, np.ndarray) and (_is_text(value) or value.dtype.kind in "iu")
        if name != output and is_label and value.shape in ((file.batch,), (file.batch, 1)):
            label = value.flat[0]
            return str(label) if _is_text(value) else int(label)
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object and value.size > 0


def _no_output_error(file: FileOutputs, choice: ModelOutput | None) -> StartError:
    trial = file.trials[0]
    found = {name: value for name, value in trial.values.items() if not (choice and choice.name not in ("", name))}
    shown = ", ".join(f'"{name}" is {_shown(value)}' for name, value in found.items())
    change = suggest_output_fix(TrialOutputs(found, file.graph, file.dynamic_outputs, file.batch, file.producer))
    if choice is None:
        return StartError(
            "model-output",
            f"has no output of a known kind: {shown}; expected {_DESCRIPTIONS[OutputKind.PROBABILITIES]}, or the "
            "output of a regressor",
            change,
        )
    return StartError(
        "model-output",
        f'has no output that fits MODEL_OUTPUT or its property "model_output": {shown}; expected '
        f"{_DESCRIPTIONS[choice.kind]}",
        change,
    )


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{'text' if value.dtype == object else value.dtype} of shape {value.shape}"
    if isinstance(value, list):
        first = value[0] if value else None
        return f"a sequence of {'maps' if isinstance(first, dict) else 'tensors'}"
    return "not a tensor"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
