"""What a client must know about a model, all of it taken from the model itself."""

from dataclasses import dataclass
from typing import Any

from model_server.model.classifier import Classifier
from model_server.model.columns_spec import ColumnsSpec


@dataclass(frozen=True)
class Metadata:
    """What the model takes and gives: types, shapes with a batch of 1, and a sample with its rounded answer.

    Of a model with several inputs, types and shapes are objects by their names.
    """

    data_type: str | dict[str, str]
    data_shape: str | dict[str, str]
    data_sample: list[Any]
    prediction_type: str
    prediction_shape: str
    prediction_sample: list[float]


def describe(classifier: Classifier) -> Metadata:
    """Return dtypes, shapes, and a sample with the model's answer, rounded to two decimals."""
    spec, sample, answer = classifier.spec, classifier.sample, classifier.sample_probabilities
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
        data_sample=classifier.signature.inputs.as_json(sample),
        prediction_type=str(answer.dtype),
        prediction_shape=str(answer.shape),
        prediction_sample=[round(float(probability), 2) for probability in answer[0]],
    )
