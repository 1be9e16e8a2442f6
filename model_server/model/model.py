"""The model that is served: a predictor and the names of its classes."""

import math
import timeit
from typing import Any, Self

from model_server.errors import StartError
from model_server.model.batching import Mode, decide_batching
from model_server.model.labels import EXAMPLE, load_labels
from model_server.model.lengths import longest_row
from model_server.model.metadata import describe
from model_server.model.model_file import ModelFile
from model_server.model.outputs import CLASS_NAMES_PROPERTY
from model_server.model.predictor import Predictor
from model_server.model.rows import Array, Rows, repeat
from model_server.model.tasks import ModelOutput, Task
from model_server.settings import Settings

_TRIES = 5
_TRIES_SECONDS = 0.5  # after which another one says nothing new
_LONG_SECONDS = 0.005  # how long a trial may take: what takes longer is not done on the event loop anyway
_MANY = 64
_PROBABLE = 0.5


class Model:
    """A predictor and the names of its classes.

    Args:
        predictor: turns rows into predictions.
        labels: name of each class or label; none for values.
        file: where the predictor came from.
        batching: whether rows of several requests may be answered together.

    Attributes:
        spec: types and shapes of the rows that the other methods take.
        task: what predictions it gives.
        prediction_shape: the shape of one prediction; None for a dimension that may vary.
        labels: name of each class or label by its index, as in a label file; empty for values.
        name: what to call the model.
        feature_names: what to call the values of a row; empty when the model does not say.
        categories: the values that the model's encoders list, by input.
        metadata: what the model takes and gives.
        etag: the model's identity as an HTTP entity tag.
        info: the model's identity, source, generation and format, and the key that has signed it, as texts.
        receipt: what the loader says of it; None when no loader brought it.
        batching: whether they are, and why.
        sample_seconds: how long an inference on the sample of the metadata takes at best, as measured at the start.
    """

    def __init__(self, predictor: Predictor, labels: tuple[str, ...], file: ModelFile, batching: Mode = "auto") -> None:
        self._predictor = predictor
        self._names = labels
        self.spec = predictor.spec
        self.task = predictor.task
        self.prediction_shape = predictor.signature.output.shape
        self.labels = {str(index): name for index, name in enumerate(labels)}
        self.name = file.name
        self.feature_names = predictor.feature_names
        self.categories = predictor.signature.inputs.categories
        self.metadata = describe(predictor)
        self.etag = f'"{file.identity}"'
        self.info = {
            "sha256": file.identity,
            "source": file.source,
            "generation": file.generation,
            **file.format,
            "signed_by": file.signed_by,
        }
        self.receipt = file.receipt
        self.sample_seconds, self._row_seconds = _measure(predictor)
        predictor.bound_pieces(self._row_seconds)
        # A longer row than the sample may take any time.
        self._one_seconds = math.inf if predictor.spec.is_free else self.sample_seconds
        self.batching = decide_batching(predictor.predict, predictor.sample, batching, is_free=predictor.spec.is_free)

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Return the model at `MODEL_FILEPATH` with the labels at `LABEL_FILEPATH`, or its own without that file.

        Raises:
            StartError: one of the files cannot be used, or they do not belong together.
        """
        file = ModelFile.read(settings.model_filepath)
        names = load_labels(settings.label_filepath, file.receipt.labels if file.receipt else None)
        choice = ModelOutput.parse(settings.model_output) if settings.model_output else None
        predictor = Predictor(file, names, choice, settings.intra_op_num_threads)
        if predictor.spec.is_free:
            predictor.limit_lengths(settings.max_row_length or longest_row(predictor))
        if predictor.task is not Task.VALUES and not predictor.names:
            raise StartError(
                "labels-missing",
                f"LABEL_FILEPATH: {settings.label_filepath} does not exist, and the model does not name its "
                f"{predictor.sample_prediction.shape[1]} classes itself",
                f"write it like {EXAMPLE}, or name them in the model's metadata property "
                f'"{CLASS_NAMES_PROPERTY}", a JSON list',
            )
        return cls(predictor, predictor.names, file, settings.batching)

    def seconds(self, rows: int) -> float:
        """Return how long an inference on so many rows takes at best, as measured at the start; infinity if unknown."""
        return self._one_seconds + (rows - 1) * self._row_seconds

    def predict(self, rows: Rows) -> Array:
        """Return one prediction per row.

        For classes, that are their probabilities, of shape (N, classes); for independent labels, the probability of
        each, of shape (N, labels); for values, an array of shape (N,), or (N, ...) where a row has several.
        """
        return self._predictor.predict(rows)

    def predict_label(self, rows: Rows) -> list[Any]:
        """Return the name of the most probable class of each row, or the list of labels that are probable."""
        predictions = self._predictor.predict(rows)
        if self.task is Task.MULTILABEL:
            return [
                [name for name, probability in zip(self._names, row, strict=True) if probability >= _PROBABLE]
                for row in predictions.tolist()
            ]
        return [self._names[index] for index in predictions.argmax(axis=1)]


def _measure(predictor: Predictor) -> tuple[float, float]:
    """Return the seconds of an inference on the sample, and of each row beyond it."""

    def seconds(rows: Rows) -> float:
        tries: list[float] = []
        while len(tries) < _TRIES and sum(tries) < _TRIES_SECONDS:
            tries.append(timeit.timeit(lambda: predictor.predict(rows), number=1))
        return min(tries)

    one = seconds(predictor.sample)
    count = min(_MANY, int(_LONG_SECONDS / one))
    if count < 2:  # noqa: PLR2004 (a second row that does not matter any more)
        return one, one
    try:
        many = seconds(repeat(predictor.sample, count))
    except Exception:  # noqa: BLE001 (it may have no memory for so many; ONNX Runtime's errors have no base in common)
        return one, one
    return one, max(0.0, many - one) / (count - 1)
