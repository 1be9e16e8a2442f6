"""What the service says about its model, all of it read off the model."""

import numpy as np
import orjson

from model_server.model.classifier import Classifier
from model_server.schemas import Metadata


def describe(classifier: Classifier) -> Metadata:
    """Return dtypes, shapes, and a sample with the answer that the model gave to it, rounded to two decimals."""
    codec, sample, answer = classifier.codec, classifier.sample, classifier.sample_probabilities
    shown = sample.astype(np.uint8) if sample.dtype == np.bool_ else sample
    return Metadata(
        data_type=str(codec.dtype),
        data_shape=str((1, *codec.row_shape)),
        # The shortest decimals that stand for the same numbers: 5.1, where tolist() gives 5.099999904632568.
        data_sample=orjson.loads(orjson.dumps(shown, option=orjson.OPT_SERIALIZE_NUMPY)),
        prediction_type=str(answer.dtype),
        prediction_shape=str(answer.shape),
        prediction_sample=[round(float(probability), 2) for probability in answer[0]],
    )
