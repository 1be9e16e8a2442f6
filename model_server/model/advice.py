"""Suggested fixes for a model whose outputs cannot be served as exported."""

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
# Producers of tabular models. Their outputs are never logits: the exporter includes the softmax or sigmoid.
_TABULAR_PRODUCERS = frozenset({"skl2onnx", "OnnxMLTools", "CatBoost"})
_CALIBRATE = (
    "fit sklearn.calibration.CalibratedClassifierCV(classifier) and export that: it has predict_proba, unlike "
    "LinearSVC, SVC, RidgeClassifier and others"
)
_EXPORT_PROBABILITIES = (
    "export the class probabilities too, for scikit-learn from a classifier with predict_proba; wrap LinearSVC, SVC "
    "and others in CalibratedClassifierCV"
)
_ONE_TENSOR = (
    "export it with one tensor of shape [N, labels] instead of a sequence, for scikit-learn with OneVsRestClassifier "
    "instead of MultiOutputClassifier; then set MODEL_OUTPUT=sigmoid"
)
_ONE_OUTPUT = 'export it with one output for all classes, for skl2onnx with options={"zipmap": False}'
_BATCH = 'export it with a batch dimension as the first dimension of its input and of its output, as in ["N", 4]'
_POOLED = (
    "export it with one answer per row, such as a mean over the positions: it answers every position of a row, as "
    "generative models do"
)


@dataclass(frozen=True)
class TrialOutputs:
    """The outputs of a model for one batch of rows.

    Attributes:
        values: the output values by output name.
        graph: the nodes of the file.
        dynamic_outputs: names of the outputs with a dimension whose length depends on the row.
        batch: number of rows in the batch.
        producer: the tool that wrote the file, as recorded in it.
    """

    values: Mapping[str, Any]
    graph: Graph
    dynamic_outputs: Sequence[str]
    batch: int
    producer: str

    @property
    def arrays(self) -> dict[str, Array]:
        """The outputs that are tensors."""
        return {name: value for name, value in self.values.items() if isinstance(value, np.ndarray)}

    @property
    def rows(self) -> dict[str, Array]:
        """The tensors that hold numbers for each row."""
        numbers = {name: value for name, value in self.arrays.items() if value.dtype != object}
        return {name: value for name, value in numbers.items() if value.ndim and len(value) == self.batch}

    @property
    def floats(self) -> dict[str, Array]:
        """The tensors that hold floating-point numbers for each row."""
        return {name: value for name, value in self.rows.items() if value.dtype.kind == "f"}

    def setting(self, kind: OutputKind, name: str) -> str:
        """Return the MODEL_OUTPUT setting for an output of this kind; it includes the name only if it is ambiguous."""
        others = self.rows if kind is OutputKind.VALUES else self.floats
        return f"MODEL_OUTPUT={ModelOutput(kind, name if len(others) > 1 else '')}"


def is_regressor(operator: Operator | None) -> bool:
    """Return whether an operator computes the values of a regression."""
    return operator is not None and operator.domain == _ML and operator.op_type in _REGRESSORS


def suggest_output_fix(outputs: TrialOutputs) -> str:
    """Return the fix for a model without an output that is known to be class probabilities or a regression."""
    if change := _suggest_form_fix(outputs):
        return change
    name = next((name for name in outputs.floats if name not in outputs.dynamic_outputs), next(iter(outputs.floats)))
    as_values = f"{outputs.setting(OutputKind.VALUES, name)} for the numbers as they are"
    if name in outputs.dynamic_outputs:
        return f"{_POOLED}; or set {as_values}"
    operator = outputs.graph.source_operator(name)
    if outputs.producer not in _TABULAR_PRODUCERS and not (operator and operator.domain == _ML):
        return f"set {_choices(outputs, name)}{as_values}, such as a regression"
    value = outputs.floats[name]
    labels = [other for other in outputs.arrays.values() if other.dtype.kind in "iuO"]
    if value[0].size > 1 and any(label.shape == value.shape for label in labels):
        sigmoid = outputs.setting(OutputKind.SIGMOID, name)
        return f"set {sigmoid} for the probabilities of independent labels, or {as_values}"
    if labels and (name == "probabilities" or outputs.graph.depends_on(name, _ML, _CLASSIFIERS)):
        return f"{_CALIBRATE}; or set {as_values}"
    return f"set {as_values}, such as a regression"


def _suggest_form_fix(outputs: TrialOutputs) -> str:
    """Return the fix for outputs without numbers for each row, or with one output per class; empty for others."""
    lists = [value for value in outputs.values.values() if isinstance(value, list)]
    if any(not isinstance(element, dict) for value in lists for element in value):
        return _ONE_TENSOR
    if lists and not outputs.floats:
        return _CALIBRATE
    if not outputs.rows:
        return _BATCH if any(value.dtype != object for value in outputs.arrays.values()) else _EXPORT_PROBABILITIES
    if not outputs.floats:
        values = outputs.setting(OutputKind.VALUES, next(iter(outputs.rows)))
        return f"{_EXPORT_PROBABILITIES}; or set {values} for the numbers as they are"
    return _ONE_OUTPUT if _are_columns(outputs.floats.values()) else ""


def _choices(outputs: TrialOutputs, name: str) -> str:
    """Return the settings other than `values` that may fit a floating-point output, each with its condition."""
    value, operator = outputs.floats[name], outputs.graph.source_operator(name)
    kind, columns = operator.op_type if operator else "", value[0].size
    if columns != max(value.shape[1:], default=1):
        return ""
    if columns == 1:
        found, held = (OutputKind.SIGMOID, "probability") if kind == "Sigmoid" else (OutputKind.SIGMOID_LOGITS, "logit")
        return f"{outputs.setting(found, name)} for the {held} of the second of two classes, or "
    if kind == "LogSoftmax" or fits(OutputKind.LOG_PROBABILITIES, value.reshape(len(value), -1)):
        return f"{outputs.setting(OutputKind.LOG_PROBABILITIES, name)} for the logarithms of class probabilities, or "
    if kind == "Sigmoid":
        return f"{outputs.setting(OutputKind.SIGMOID, name)} for the probabilities of independent labels, or "
    return (
        f"{outputs.setting(OutputKind.LOGITS, name)} for class scores before a softmax, "
        f"{outputs.setting(OutputKind.SIGMOID_LOGITS, name)} for independent labels before a sigmoid, or "
    )


def _are_columns(values: Collection[Array]) -> bool:
    """Return whether each of several outputs holds the probability of one class."""
    if len(values) == 1 or any(value[0].size != 1 for value in values):
        return False
    matrix = np.stack([value.reshape(-1) for value in values], axis=1)
    return fits(OutputKind.PROBABILITIES, matrix)
