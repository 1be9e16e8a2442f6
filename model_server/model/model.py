"""The served model: a predictor and the names of its classes."""

import math
import timeit
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Self

from model_server.errors import StartError
from model_server.model.batching import Mode, Sample, decide_batching
from model_server.model.labels import EXAMPLE, load_labels
from model_server.model.lengths import measure_max_row_length
from model_server.model.metadata import describe
from model_server.model.model_file import ModelFile
from model_server.model.outputs import CLASS_NAMES_PROPERTY
from model_server.model.predictor import Predictor
from model_server.model.rows import Array, Rows, repeat
from model_server.model.tasks import ModelOutput, Task
from model_server.settings import Settings

_TRIES = 5
_TRIES_SECONDS = 0.5  # no further try after this time
_LONG_SECONDS = 0.005  # maximum duration of a trial: longer inferences never run on the event loop
_MANY = 64
_PROBABLE = 0.5
# The innermost `Once` of the current context.
_current_once: ContextVar["Once | None"] = ContextVar("current_once", default=None)
# Collects the predictions in the current context; None if nothing needs them.
current_predictions: ContextVar[list[Array] | None] = ContextVar("current_predictions", default=None)


class Model:
    """A predictor and the names of its classes.

    Args:
        predictor: computes predictions from rows.
        labels: name of each class or label; empty for values.
        file: the file of the predictor.
        batching: the batching mode.

    Attributes:
        spec: types and shapes of the rows that the prediction methods take.
        inputs: types and shapes of the model's inputs by name.
        task: the kind of predictions.
        prediction_shape: shape of one prediction; None for a dynamic dimension.
        labels: name of each class or label by its index, as in a label file; empty for values.
        name: display name of the model.
        short_name: the stem of that name, for the model's name in URLs.
        feature_names: names of the values of a row; empty if the model does not give them.
        categories: the values that the model's encoders know, by input.
        metadata: input and output types, shapes and a sample.
        etag: the model's identity as an HTTP entity tag.
        info: identity, source, generation and format of the model, and the key that signed it, as strings.
        receipt: the loader's receipt; None if the loader did not load the model.
        batching: the batching decision and its reason.
        sample_seconds: shortest measured duration of an inference on the metadata sample.
    """

    def __init__(self, predictor: Predictor, labels: tuple[str, ...], file: ModelFile, batching: Mode = "auto") -> None:
        self._predictor = predictor
        self._names = labels
        self.spec = predictor.spec
        self.inputs = predictor.signature.inputs.with_limits_of(self.spec)
        self.task = predictor.task
        self.prediction_shape = predictor.signature.output.shape
        self.labels = {str(index): name for index, name in enumerate(labels)}
        self.name = file.name
        self.short_name = file.short_name
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
        predictor.limit_chunks(self._row_seconds)
        # A row that is longer than the sample may take any time.
        self._one_row_seconds = math.inf if predictor.spec.is_dynamic else self.sample_seconds
        sample = Sample(predictor.sample, self.categories, predictor.spec.is_dynamic)
        self.batching = decide_batching(predictor.predict, sample, batching)

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Return the model at `MODEL_FILEPATH` with the labels at `LABEL_FILEPATH`, or else with its own labels.

        If `MODEL_FILEPATH` is a directory, classes without a name are named by their indices.

        Raises:
            StartError: the model or the label file cannot be used, or they do not match.
        """
        file = ModelFile.read(settings.model_file)
        is_unlabelled = file.receipt is not None and file.receipt.labels is None
        names = None
        # Labels beside a model that was loaded without any belong to another one.
        if not is_unlabelled or settings.label_filepath.parent != settings.model_filepath:
            names = load_labels(settings.label_filepath, file.receipt.labels if file.receipt else None)
        predictor = load_predictor(file, names, settings)
        if predictor.task is not Task.VALUES and not predictor.names:
            count = predictor.sample_prediction.shape[1]
            if settings.model_filepath.is_dir():
                return cls(predictor, tuple(map(str, range(count))), file, settings.batching)
            raise StartError(
                "labels-missing",
                f"LABEL_FILEPATH: {settings.label_filepath} does not exist, and the model does not name its "
                f"{count} classes itself",
                f"create that file, for example {EXAMPLE}, or list the names in the model's metadata property "
                f'"{CLASS_NAMES_PROPERTY}", a JSON list',
            )
        return cls(predictor, predictor.names, file, settings.batching)

    def estimate_latency(self, rows: int) -> float:
        """Return the seconds that an inference on this number of rows takes at least; infinity if unknown."""
        return self._one_row_seconds + (rows - 1) * self._row_seconds

    def predict(self, rows: Rows) -> Array:
        """Return one prediction per row.

        For classes and for independent labels, a prediction has the probability of each: shape (N, classes) or
        (N, labels). For values, the shape is (N,), or (N, ...) if a row has several values.
        """
        return self._predict(rows)

    def predict_label(self, rows: Rows) -> list[Any]:
        """Return the most probable class of each row or, for independent labels, all labels of at least 50 %."""
        predictions = self._predict(rows)
        if self.task is Task.MULTILABEL:
            return [
                [name for name, probability in zip(self._names, row, strict=True) if probability >= _PROBABLE]
                for row in predictions.tolist()
            ]
        return [self._names[index] for index in predictions.argmax(axis=1)]

    def as_json(self, rows: Rows) -> list[Any]:
        """Return rows as JSON values, as a client sends them."""
        return self._predictor.signature.inputs.as_json(rows)

    def _predict(self, rows: Rows) -> Array:
        once = _current_once.get()
        is_whole = once is not None and once.rows is rows
        predictions = once.predict(self._predictor) if once and is_whole else self._predictor.predict(rows)
        if (collected := current_predictions.get()) is not None:
            collected.append(predictions)
        return predictions


class Once:
    """A context in which rows, which must not change, are predicted once for several methods.

    Args:
        rows: the rows of a request; other rows, such as parts of them, are predicted each time.
    """

    __slots__ = ("_predictions", "_token", "rows")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._predictions: Array | None = None

    def predict(self, predictor: Predictor) -> Array:
        """Return the predictions of the rows, as an array that the caller may change."""
        if self._predictions is None:
            self._predictions = predictor.predict(self.rows)
        return self._predictions.copy()

    def __enter__(self) -> None:
        self._token = _current_once.set(self)

    def __exit__(self, *_: object) -> None:
        _current_once.reset(self._token)


def load_predictor(file: ModelFile, labels: Sequence[str] | None, settings: Settings) -> Predictor:
    """Return a predictor for the file, with the output and the row length limit from the settings.

    Raises:
        StartError: the model cannot be used, or does not match the labels or the settings.
    """
    choice = ModelOutput.parse(settings.model_output) if settings.model_output else None
    predictor = Predictor(file, labels, choice, settings.intra_op_num_threads)
    if predictor.spec.is_dynamic:
        predictor.limit_lengths(settings.max_row_length or measure_max_row_length(predictor))
    return predictor


def _measure(predictor: Predictor) -> tuple[float, float]:
    """Return the seconds of an inference on the sample, and of each additional row."""

    def seconds(rows: Rows) -> float:
        tries: list[float] = []
        while len(tries) < _TRIES and sum(tries) < _TRIES_SECONDS:
            tries.append(timeit.timeit(lambda: predictor.predict(rows), number=1))
        return min(tries)

    one = seconds(predictor.sample)
    count = min(_MANY, int(_LONG_SECONDS / one))
    if count < 2:  # noqa: PLR2004 (one row takes so long that the cost of a second one does not matter)
        return one, one
    try:
        many = seconds(repeat(predictor.sample, count))
    except Exception:  # noqa: BLE001 (memory may not suffice; ONNX Runtime's errors share no other base class)
        return one, one
    return one, max(0.0, many - one) / (count - 1)
