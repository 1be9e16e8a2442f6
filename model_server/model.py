"""The model that is served: a classifier, the names of its classes, and the answers of the routes."""

import timeit
from typing import Self

from model_server.classifier import Classifier
from model_server.codec import Array
from model_server.labels import load_labels
from model_server.metadata import describe
from model_server.model_file import ModelFile
from model_server.settings import Settings


class Model:
    """A classifier and its labels.

    Args:
        classifier: turns rows into class probabilities.
        labels: name of each class.
        file: where the classifier came from.

    Attributes:
        codec: reads the rows that the other methods take.
        labels: name of each class by its index, as in the label file.
        metadata: what the model takes and gives.
        etag: the model's identity as an HTTP entity tag.
        info: the model's digest, source and generation.
        seconds: how long an inference on one row takes, at best.
    """

    def __init__(self, classifier: Classifier, labels: tuple[str, ...], file: ModelFile) -> None:
        self._classifier = classifier
        self._names = labels
        self.codec = classifier.codec
        self.labels = {str(index): name for index, name in enumerate(labels)}
        self.metadata = describe(classifier)
        self.etag = f'"{file.identity}"'
        self.info = {"sha256": file.identity, "source": file.source, "generation": file.generation}
        self.seconds = min(timeit.repeat(lambda: classifier.probabilities(classifier.sample), number=1, repeat=5))

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Return the model at `MODEL_FILEPATH` with the labels at `LABEL_FILEPATH`.

        Raises:
            StartError: one of the files cannot be used, or they do not belong together.
        """
        file = ModelFile.read(settings.model_filepath)
        labels = load_labels(settings.label_filepath, file.receipt.labels if file.receipt else None)
        return cls(Classifier(file, labels), labels, file)

    def predict(self, rows: Array) -> list[float] | list[list[float]]:
        """Return the class probabilities of one row, or a list with those of each row."""
        probabilities: list[list[float]] = self._classifier.probabilities(rows).tolist()
        return probabilities[0] if len(probabilities) == 1 else probabilities

    def predict_label(self, rows: Array) -> str | list[str]:
        """Return the name of the most probable class of one row, or a list with that of each row."""
        names = [self._names[index] for index in self._classifier.probabilities(rows).argmax(axis=1)]
        return names[0] if len(names) == 1 else names
