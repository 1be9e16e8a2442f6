"""Inference on a supported ONNX model: rows in, predictions out."""

import logging
import math
import re
import sys
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from model_server.errors import StartError
from model_server.model.graph import Graph
from model_server.model.model_file import ModelFile
from model_server.model.rows import Array, Columns, InvalidRowsError, Rows
from model_server.model.session import StoppedError, current_stop, open_session
from model_server.model.signature import read_signature
from model_server.model.tasks import ModelOutput

logger = logging.getLogger("model_server")

_FEW_NUMBERS = 256
_INDEX = re.compile(r"= ?-?\d+")  # in ONNX Runtime's errors, a number from a row, such as "idx=7" or "index = 7"
_CHUNK_SECONDS = 0.25
_GROWTH = 4
_ALL = sys.maxsize


class Predictor:
    """An ONNX Runtime session that computes predictions from rows.

    Args:
        file: the ONNX model; its bytes are not needed after construction.
        labels: class names from the label file; None without one.
        choice: the output to serve and its kind; None to read them from the file.
        threads: number of threads that one inference uses.

    Attributes:
        signature: the inputs and the output of the model.
        task: the kind of predictions.
        names: class or label names; empty if the model has none.
        spec: types and shapes of the rows.
        feature_names: names of the values of a row; empty if the model does not give them.
        sample: a row that the model has answered.
        sample_prediction: the model's answer to the sample, an array with one prediction.
        chunk_size: number of rows in the first inference of a large request; fast chunks are followed by larger ones.

    Raises:
        StartError: the file cannot be loaded or served, or its class count differs from the number of labels.
    """

    def __init__(
        self, file: ModelFile, labels: Sequence[str] | None = None, choice: ModelOutput | None = None, threads: int = 1
    ) -> None:
        session = open_session(file, threads)
        try:
            self.signature = read_signature(session, Graph.read(file.content), labels, choice)
        except StartError as error:
            raise StartError(error.code, f"MODEL_FILEPATH: {file.path} {error.reason}", error.fix) from error
        self._session_run = session.run
        self._options = ort.RunOptions()  # reused: without options, ONNX Runtime creates new ones for each call
        self._outputs = [self.signature.output.name]
        self._extract = self.signature.output.extract
        self.task = self.signature.output.task
        self.names = self.signature.output.names
        self.spec = self.signature.inputs.spec
        self.feature_names = self.signature.inputs.feature_names
        self.sample = self.signature.output.sample
        # The duration of a row of dynamic length is unknown: start with one row per chunk.
        self.chunk_size = 1 if self.spec.is_dynamic else _ALL
        self.sample_prediction = self.predict(self.sample)

    def predict(self, rows: Rows) -> Array:
        """Return one prediction per row: of shape (N, classes) for classes and labels, else (N,) or (N, ...).

        Args:
            rows: rows as `spec` returns them.

        Raises:
            InvalidRowsError: a row has no finite answer, or a dynamic dimension has a length that the model does not
                support.
            StoppedError: the request was stopped.
            Exception: the model failed; ONNX Runtime's errors share no other base class.
        """
        batch = self.signature.inputs.batch
        if batch is not None and batch != len(rows):
            predictions = self._run_in_batches(rows, batch)
        elif len(rows) > self.chunk_size and batch is None and current_stop.get():
            predictions = self._run_in_chunks(rows)
        else:
            predictions = self._run(rows)
        # For a few numbers, a sum in Python is faster than numpy.
        if predictions.size <= _FEW_NUMBERS and math.isfinite(sum(predictions.ravel().tolist())):
            return predictions
        finite = np.isfinite(predictions)
        if not finite.all():
            row = int(finite.reshape(len(finite), -1).all(axis=1).argmin())
            raise InvalidRowsError(
                (row,), "has no finite answer from the model; expected numbers like those it was trained on"
            )
        return predictions

    def limit_lengths(self, max_length: int | None) -> None:
        """Limit the length of dynamic dimensions."""
        self.spec = self.spec.with_max_length(max_length)

    def limit_chunks(self, row_seconds: float) -> None:
        """Limit an inference to the rows that take a quarter of a second, given the seconds per row."""
        if not self.spec.is_dynamic and row_seconds > 0:
            self.chunk_size = max(1, int(_CHUNK_SECONDS / row_seconds))

    def _run_in_batches(self, rows: Rows, batch: int) -> Array:
        answers = []
        for start in range(0, len(rows), batch):
            chunk = rows[start : start + batch]
            filled = chunk if len(chunk) == batch else chunk[np.arange(batch) % len(chunk)]
            answers.append(self._run(filled)[: len(chunk)])
        return np.concatenate(answers)

    def _run_in_chunks(self, rows: Rows) -> Array:
        """Run the rows in chunks, so that the request can be stopped between two of them."""
        answers = []
        start, size = 0, self.chunk_size
        while start < len(rows):
            began = time.perf_counter()
            answers.append(self._run(rows[start : start + size]))
            start += size
            if time.perf_counter() - began < _CHUNK_SECONDS / _GROWTH:
                size *= _GROWTH
        return np.concatenate(answers)

    def _run(self, rows: Rows) -> Array:
        stop = current_stop.get()
        options = stop.options() if stop else self._options
        try:
            [value] = self._session_run(self._outputs, self.signature.inputs.feed(rows), options)
        except Exception as error:
            if options.terminate:
                raise StoppedError from error
            if wrong := self.signature.inputs.find_invalid_value(rows, error):
                raise wrong from error
            error.args = (_INDEX.sub("=?", str(error)),)  # it may be logged
            if self.spec.is_dynamic:
                logger.debug("model_failed", exc_info=True)
                raise InvalidRowsError((), f"has {_row_shapes(rows)}; the model does not accept this length") from error
            raise
        predictions = self._extract(value)
        if len(predictions) != len(rows):
            raise RuntimeError(f"the model answered {len(rows)} rows with {len(predictions)}")
        return predictions


def _row_shapes(rows: Rows) -> str:
    if isinstance(rows, Columns):
        return "values of " + ", ".join(f"shape {array.shape[1:]} for {name}" for name, array in rows.arrays.items())
    return f"rows of shape {rows.shape[1:]}"
