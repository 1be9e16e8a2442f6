"""What to change about a model whose outputs cannot be served as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model_server.model.conversions import fits
from model_server.model.graph import Graph, Operator
from model_server.model.rows import Array
from model_server.model.tasks import OutputKind

_ML = "ai.onnx.ml"
_REGRESSORS = frozenset({"LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"})
_CLASSIFIERS = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})
_CALIBRATE = (
    "fit sklearn.calibration.CalibratedClassifierCV(classifier), which has predict_proba where LinearSVC, SVC and "
    "others have none, and export that"
)
_EXPORT_PROBABILITIES = (
    "export class probabilities beside it, for scikit-learn those of a classifier that has predict_proba: LinearSVC, "
    "SVC and others have it inside CalibratedClassifierCV"
)


def is_regressor(operator: Operator | None) -> bool:
    """Return whether an operator gives the values of a regression."""
    return operator is not None and operator.domain == _ML and operator.kind in _REGRESSORS


def change_of_outputs(values: Mapping[str, Any], graph: Graph, free: Sequence[str], batch: int) -> str:
    """Return what to do about a model none of whose outputs is known to be class probabilities or a regression.

    Args:
        values: what the outputs gave for a batch, by name.
        graph: the nodes of the model.
        free: the outputs with a dimension that is as long as the row.
        batch: how many rows were given.
    """
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.dtype != object}
    rows = {name: value for name, value in arrays.items() if value.ndim and len(value) == batch}
    if not rows:
        return _change_of_form(values, are_arrays=bool(arrays))
    floats = {name: value for name, value in rows.items() if value.dtype.kind == "f"}
    name = next((name for name in floats if name not in free), next(iter(floats or rows)))
    as_values = f"MODEL_OUTPUT={_named(OutputKind.VALUES, name, rows)} for the numbers as they are"
    if not floats:
        return f"{_EXPORT_PROBABILITIES}; or set {as_values}"
    if name in free:
        return (
            "export it with one answer per row, such as a mean over its positions: it answers each position of a row, "
            f"as generators do; or set {as_values}"
        )
    operator = graph.maker(name)
    if operator and operator.domain == _ML and operator.kind in _CLASSIFIERS:
        return f"{_CALIBRATE}; or set {as_values}"
    settings = {kind: f"MODEL_OUTPUT={_named(kind, name, floats)}" for kind in OutputKind}
    return f"set {_choices(floats[name], operator.kind if operator else '', settings)}{as_values}"


def _change_of_form(values: Mapping[str, Any], *, are_arrays: bool) -> str:
    """Return what to do about outputs that have no numbers for each row."""
    if are_arrays:
        return 'export it with a batch dimension: the first one of its input and of its output, as in ["N", 4]'
    if any(isinstance(value, list) and value and not isinstance(value[0], dict) for value in values.values()):
        return "export it with one tensor of shape [N, labels] instead of a sequence, or one model for each of them"
    return _EXPORT_PROBABILITIES


def _choices(value: Array, kind: str, settings: Mapping[OutputKind, str]) -> str:
    """Return the settings that may serve an output of floats besides `values`, and when.

    Args:
        value: what the output gave.
        kind: the operator that has computed it.
        settings: the setting for each kind of output.
    """
    columns = value[0].size
    if columns == 1 and kind == "Sigmoid":
        return f"{settings[OutputKind.SIGMOID]} for the probability of the second of two classes, or "
    if columns == 1:
        return f"{settings[OutputKind.SIGMOID_LOGITS]} for the logit of the second of two classes, or "
    if columns != max(value.shape[1:]):
        return ""
    if kind == "LogSoftmax" or fits(OutputKind.LOG_PROBABILITIES, value.reshape(len(value), -1)):
        return f"{settings[OutputKind.LOG_PROBABILITIES]} for the logarithms of class probabilities, or "
    if kind == "Sigmoid":
        return f"{settings[OutputKind.SIGMOID]} for the probabilities of independent labels, or "
    return (
        f"{settings[OutputKind.LOGITS]} for class scores before a softmax, {settings[OutputKind.SIGMOID_LOGITS]} for "
        "independent labels before a sigmoid, or "
    )


def _named(kind: str, name: str, candidates: Mapping[str, Any]) -> str:
    return kind if len(candidates) == 1 else f"{kind}:{name}"
