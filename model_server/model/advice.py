"""What to change about a model whose outputs cannot be served as they are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_server.model.conversions import fits
from model_server.model.graph import Graph, Operator
from model_server.model.rows import Array
from model_server.model.tasks import ModelOutput, OutputKind

_ML = "ai.onnx.ml"
_REGRESSORS = frozenset({"LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"})
_CLASSIFIERS = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})
# Producers whose outputs are never logits: they apply the softmax or sigmoid themselves.
_OF_TABLES = frozenset({"skl2onnx", "OnnxMLTools", "CatBoost"})
_CALIBRATE = (
    "fit sklearn.calibration.CalibratedClassifierCV(classifier), which has predict_proba where LinearSVC, SVC, "
    "RidgeClassifier and others have none, and export that"
)
_EXPORT_PROBABILITIES = (
    "export the class probabilities too, for scikit-learn those of a classifier that has predict_proba; LinearSVC, SVC "
    "and others have it inside CalibratedClassifierCV"
)
_ONE_TENSOR = (
    "export it with one tensor of shape [N, labels] instead of a sequence, for scikit-learn with OneVsRestClassifier "
    "instead of MultiOutputClassifier; then set MODEL_OUTPUT=sigmoid"
)
_ONE_OUTPUT = 'export it with one output for all classes, for skl2onnx with options={"zipmap": False}'
_BATCH = 'export it with a batch dimension, the first one of its input and of its output, as in ["N", 4]'
_POOLED = (
    "export it with one answer per row, such as a mean over its positions: it answers each position of a row, as "
    "generators do"
)


@dataclass(frozen=True)
class Answers:
    """What a model has answered to a batch of rows.

    Attributes:
        values: what its outputs gave, by name.
        graph: its nodes.
        free: the outputs with a dimension that is as long as the row.
        batch: how many rows were given.
        producer: what wrote the file, as recorded in it.
    """

    values: Mapping[str, Any]
    graph: Graph
    free: Sequence[str]
    batch: int
    producer: str

    @property
    def arrays(self) -> dict[str, Array]:
        """Those that are tensors."""
        return {name: value for name, value in self.values.items() if isinstance(value, np.ndarray)}

    @property
    def rows(self) -> dict[str, Array]:
        """Those with numbers for each row."""
        numbers = {name: value for name, value in self.arrays.items() if value.dtype != object}
        return {name: value for name, value in numbers.items() if value.ndim and len(value) == self.batch}

    @property
    def floats(self) -> dict[str, Array]:
        """Those with decimals for each row."""
        return {name: value for name, value in self.rows.items() if value.dtype.kind == "f"}

    def setting(self, kind: OutputKind, name: str) -> str:
        """Return the setting that says that an output is of a kind; with its name only if another could be meant."""
        others = self.rows if kind is OutputKind.VALUES else self.floats
        return f"MODEL_OUTPUT={ModelOutput(kind, name if len(others) > 1 else '')}"


def is_regressor(operator: Operator | None) -> bool:
    """Return whether an operator gives the values of a regression."""
    return operator is not None and operator.domain == _ML and operator.kind in _REGRESSORS


def change_of_outputs(answers: Answers) -> str:
    """Return what to do about a model none of whose outputs is known to be class probabilities or a regression."""
    if change := _change_of_form(answers):
        return change
    name = next((name for name in answers.floats if name not in answers.free), next(iter(answers.floats)))
    as_values = f"{answers.setting(OutputKind.VALUES, name)} for the numbers as they are"
    if name in answers.free:
        return f"{_POOLED}; or set {as_values}"
    operator = answers.graph.maker(name)
    if answers.producer not in _OF_TABLES and not (operator and operator.domain == _ML):
        return f"set {_choices(answers, name)}{as_values}, such as a regression"
    value = answers.floats[name]
    labels = [other for other in answers.arrays.values() if other.dtype.kind in "iuO"]
    if value[0].size > 1 and any(label.shape == value.shape for label in labels):
        sigmoid = answers.setting(OutputKind.SIGMOID, name)
        return f"set {sigmoid} for the probabilities of independent labels, or {as_values}"
    if labels and (name == "probabilities" or answers.graph.is_behind(name, _ML, _CLASSIFIERS)):
        return f"{_CALIBRATE}; or set {as_values}"
    return f"set {as_values}, such as a regression"


def _change_of_form(answers: Answers) -> str:
    """Return what to do about outputs without numbers for each row, or with one output per class; empty for others."""
    lists = [value for value in answers.values.values() if isinstance(value, list)]
    if any(not isinstance(element, dict) for value in lists for element in value):
        return _ONE_TENSOR
    if lists and not answers.floats:
        return _CALIBRATE
    if not answers.rows:
        return _BATCH if any(value.dtype != object for value in answers.arrays.values()) else _EXPORT_PROBABILITIES
    if not answers.floats:
        values = answers.setting(OutputKind.VALUES, next(iter(answers.rows)))
        return f"{_EXPORT_PROBABILITIES}; or set {values} for the numbers as they are"
    return _ONE_OUTPUT if _are_columns(answers.floats.values()) else ""


def _choices(answers: Answers, name: str) -> str:
    """Return the settings that may serve an output of floats besides `values`, and when."""
    value, operator = answers.floats[name], answers.graph.maker(name)
    kind, columns = operator.kind if operator else "", value[0].size
    if columns != max(value.shape[1:], default=1):
        return ""
    if columns == 1:
        found, held = (OutputKind.SIGMOID, "probability") if kind == "Sigmoid" else (OutputKind.SIGMOID_LOGITS, "logit")
        return f"{answers.setting(found, name)} for the {held} of the second of two classes, or "
    if kind == "LogSoftmax" or fits(OutputKind.LOG_PROBABILITIES, value.reshape(len(value), -1)):
        return f"{answers.setting(OutputKind.LOG_PROBABILITIES, name)} for the logarithms of class probabilities, or "
    if kind == "Sigmoid":
        return f"{answers.setting(OutputKind.SIGMOID, name)} for the probabilities of independent labels, or "
    return (
        f"{answers.setting(OutputKind.LOGITS, name)} for class scores before a softmax, "
        f"{answers.setting(OutputKind.SIGMOID_LOGITS, name)} for independent labels before a sigmoid, or "
    )


def _are_columns(values: Collection[Array]) -> bool:
    """Return whether several outputs hold the probability of one class each."""
    if len(values) == 1 or any(value[0].size != 1 for value in values):
        return False
    matrix = np.stack([value.reshape(-1) for value in values], axis=1)
    return fits(OutputKind.PROBABILITIES, matrix)
