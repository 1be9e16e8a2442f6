"""The model metadata that clients need, all of it taken from the model itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.predictor import Predictor
from model_server.model.tasks import Task


@dataclass(frozen=True)
class Metadata:
    """Input and output types, shapes with a batch of 1, and a sample with its rounded prediction.

    For a model with several inputs, the data types and shapes are objects with the input names as keys.

    Attributes:
        task: the model's task; None if it predicts class probabilities.
    """

    data_type: str | dict[str, str]
    data_shape: str | dict[str, str]
    data_sample: list[Any]
    prediction_type: str
    prediction_shape: str
    prediction_sample: list[Any]
    task: str | None = None


def describe(predictor: Predictor) -> Metadata:
    """Return the metadata of a model, with the sample prediction rounded to two decimals."""
    spec, sample, prediction = predictor.spec, predictor.sample, predictor.sample_prediction
    types: str | dict[str, str]
    shapes: str | dict[str, str]
    if isinstance(spec, ColumnsSpec):
        types = {name: value.type_name for name, value in spec.inputs.items()}
        shapes = {name: value.batch_shape for name, value in spec.inputs.items()}
    else:
        types, shapes = spec.type_name, spec.batch_shape
    return Metadata(
        data_type=types,
        data_shape=shapes,
        data_sample=predictor.signature.inputs.as_json(sample),
        prediction_type=str(prediction.dtype),
        prediction_shape=str(prediction.shape),
        prediction_sample=_rounded(np.atleast_1d(prediction[0]).tolist()),
        task=None if predictor.task is Task.CLASSES else str(predictor.task),
    )


def _rounded(numbers: list[Any]) -> list[Any]:
    return [_rounded(number) if isinstance(number, list) else round(number, 2) for number in numbers]
