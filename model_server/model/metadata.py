"""What a client must know about a model, all of it taken from the model itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from model_server.model.classifier import Classifier


@dataclass(frozen=True)
class Metadata:
    """What the model takes and gives: types, shapes with a batch of 1, and a sample with its rounded answer."""

    data_type: str
    data_shape: str
    data_sample: list[Any]
    prediction_type: str
    prediction_shape: str
    prediction_sample: list[float]


def describe(classifier: Classifier) -> Metadata:
    """Return dtypes, shapes, and a sample with the model's answer, rounded to two decimals."""
    spec, sample, answer = classifier.spec, classifier.sample, classifier.sample_probabilities
    shown = sample.astype(np.uint8) if sample.dtype == np.bool_ else sample
    return Metadata(
        data_type=str(spec.dtype),
        data_shape=str((1, *spec.row_shape)),
        # The shortest decimals that stand for the same numbers: 5.1, where tolist() gives 5.099999904632568.
        data_sample=orjson.loads(orjson.dumps(shown, option=orjson.OPT_SERIALIZE_NUMPY)),
        prediction_type=str(answer.dtype),
        prediction_shape=str(answer.shape),
        prediction_sample=[round(float(probability), 2) for probability in answer[0]],
    )
