"""What a client must know about a model, all of it taken from the model itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from model_server.model.predictor import Predictor
from model_server.model.tasks import Task


@dataclass(frozen=True)
class Metadata:
    """What the model takes and gives: types, shapes with a batch of 1, and a sample with its rounded answer.

    Attributes:
        task: what predictions it gives, unless they are class probabilities, for which it is None.
    """

    data_type: str
    data_shape: str
    data_sample: list[Any]
    prediction_type: str
    prediction_shape: str
    prediction_sample: list[Any]
    task: str | None = None


def describe(predictor: Predictor) -> Metadata:
    """Return dtypes, shapes, and a sample with the model's answer, rounded to two decimals."""
    spec, sample, prediction = predictor.spec, predictor.sample, predictor.sample_prediction
    shown = sample.astype(np.uint8) if sample.dtype == np.bool_ else sample
    return Metadata(
        data_type=str(spec.dtype),
        data_shape=str((1, *spec.row_shape)),
        # The shortest decimals that stand for the same numbers: 5.1, where tolist() gives 5.099999904632568.
        data_sample=orjson.loads(orjson.dumps(shown, option=orjson.OPT_SERIALIZE_NUMPY)),
        prediction_type=str(prediction.dtype),
        prediction_shape=str(prediction.shape),
        prediction_sample=_rounded(np.atleast_1d(prediction[0]).tolist()),
        task=None if predictor.task is Task.CLASSES else str(predictor.task),
    )


def _rounded(numbers: list[Any]) -> list[Any]:
    return [_rounded(number) if isinstance(number, list) else round(number, 2) for number in numbers]
