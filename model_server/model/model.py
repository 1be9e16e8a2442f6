"""The model that is served: a classifier and the names of its classes."""

import math
import timeit
from typing import Self

import numpy as np

from model_server.model.classifier import Classifier
from model_server.model.labels import load_labels
from model_server.model.metadata import describe
from model_server.model.model_file import ModelFile
from model_server.model.rows import Array
from model_server.settings import Settings

_TRIES = 5
_TRIES_SECONDS = 0.5  # after which another one says nothing new
_LONG_SECONDS = 0.005  # how long a trial may take: what takes longer is not done on the event loop anyway
_MANY = 64


class Model:
    """A classifier and its labels.

    Args:
        classifier: turns rows into class probabilities.
        labels: name of each class.
        file: where the classifier came from.

    Attributes:
        spec: type and shape of the rows that the other methods take.
        labels: name of each class by its index, as in the label file.
        name: what to call the model.
        feature_names: what to call the values of a row; empty when the model does not say.
        metadata: what the model takes and gives.
        etag: the model's identity as an HTTP entity tag.
        info: the model's identity, source, generation and format, and the key that has signed it, as texts.
        receipt: what the loader says of it; None when no loader brought it.
        sample_seconds: how long an inference on the sample of the metadata takes at best, as measured at the start.
    """

    def __init__(self, classifier: Classifier, labels: tuple[str, ...], file: ModelFile) -> None:
        self._classifier = classifier
        self._names = labels
        self.spec = classifier.spec
        self.labels = {str(index): name for index, name in enumerate(labels)}
        self.name = file.name
        self.feature_names = classifier.feature_names
        self.metadata = describe(classifier)
        self.etag = f'"{file.identity}"'
        self.info = {
            "sha256": file.identity,
            "source": file.source,
            "generation": file.generation,
            **file.format,
            "signed_by": file.signed_by,
        }
        self.receipt = file.receipt
        self.sample_seconds, self._row_seconds = _measure(classifier)
        # A longer row than the sample may take any time.
        self._one_seconds = math.inf if None in classifier.spec.row_shape else self.sample_seconds

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Return the model at `MODEL_FILEPATH` with the labels at `LABEL_FILEPATH`.

        Raises:
            StartError: one of the files cannot be used, or they do not belong together.
        """
        file = ModelFile.read(settings.model_filepath)
        labels = load_labels(settings.label_filepath, file.receipt.labels if file.receipt else None)
        return cls(Classifier(file, labels, settings.intra_op_num_threads), labels, file)

    def seconds(self, rows: int) -> float:
        """Return how long an inference on so many rows takes at best, as measured at the start; infinity if unknown."""
        return self._one_seconds + (rows - 1) * self._row_seconds

    def predict(self, rows: Array) -> Array:
        """Return the class probabilities of N rows, of shape (N, classes)."""
        return self._classifier.probabilities(rows)

    def predict_label(self, rows: Array) -> list[str]:
        """Return the name of the most probable class of each row."""
        return [self._names[index] for index in self._classifier.probabilities(rows).argmax(axis=1)]


def _measure(classifier: Classifier) -> tuple[float, float]:
    """Return the seconds of an inference on the sample, and of each row beyond it."""

    def seconds(rows: Array) -> float:
        tries: list[float] = []
        while len(tries) < _TRIES and sum(tries) < _TRIES_SECONDS:
            tries.append(timeit.timeit(lambda: classifier.probabilities(rows), number=1))
        return min(tries)

    one = seconds(classifier.sample)
    count = min(_MANY, int(_LONG_SECONDS / one))
    if count < 2:  # noqa: PLR2004 (a second row that does not matter any more)
        return one, one
    try:
        many = seconds(np.repeat(classifier.sample, count, axis=0))
    except Exception:  # noqa: BLE001 (it may have no memory for so many; ONNX Runtime's errors have no base in common)
        return one, one
    return one, max(0.0, many - one) / (count - 1)
