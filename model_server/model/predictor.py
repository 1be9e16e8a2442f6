"""Any ONNX model that can be served, as a function from rows to predictions."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from model_server.errors import StartError
from model_server.model.graph import Graph
from model_server.model.model_file import ModelFile
from model_server.model.remedies import one_line, remedy
from model_server.model.rows import Array, Columns, InvalidRowsError, Rows
from model_server.model.signature import read_signature
from model_server.model.tasks import ModelOutput

logger = logging.getLogger("model_server")

_FEW_NUMBERS = 256
_FATAL = 4  # of ONNX Runtime's log levels: its errors reach us as exceptions


class Predictor:
    """An ONNX Runtime session that turns rows into predictions.

    Args:
        file: the ONNX model; its bytes are needed no longer once this is made.
        labels: name of each class by the label file; None without one.
        choice: which output answers, and what it holds; None takes it from the file.
        threads: how many threads one inference uses.

    Attributes:
        signature: how the model is called.
        task: what predictions it gives.
        names: of the classes or labels; empty if neither the label file nor the model names them.
        spec: types and shapes of the rows that it takes.
        feature_names: what to call the values of a row; empty when the model does not say.
        sample: a row that the model has answered.
        sample_prediction: its answer, an array with one prediction.

    Raises:
        StartError: the file cannot be loaded or served, or has another number of classes than there are labels.
    """

    def __init__(
        self, file: ModelFile, labels: Sequence[str] | None = None, choice: ModelOutput | None = None, threads: int = 1
    ) -> None:
        session = _open_session(file, threads)
        try:
            self.signature = read_signature(session, Graph.read(file.content), labels, choice)
        except StartError as error:
            raise StartError(error.code, f"MODEL_FILEPATH: {file.path} {error.reason}", error.change) from error
        self._session_run = session.run
        self._options = ort.RunOptions()  # kept: without, ONNX Runtime makes new ones for each call
        self._outputs = [self.signature.output.name]
        self._read = self.signature.output.read
        self.task = self.signature.output.task
        self.names = self.signature.output.names
        self.spec = self.signature.inputs.spec
        self.feature_names = self.signature.inputs.feature_names
        self.sample = self.signature.output.sample
        self.sample_prediction = self.predict(self.sample)

    def predict(self, rows: Rows) -> Array:
        """Return one prediction per row: of shape (N, classes) for classes and labels, else (N,) or (N, ...).

        Args:
            rows: rows as `spec` returns them.

        Raises:
            InvalidRowsError: a row has no finite answer, or a dimension that the model leaves free has a length that
                it does not take.
            Exception: the model failed; ONNX Runtime's errors have no other base in common.
        """
        batch = self.signature.inputs.batch
        predictions = self._run(rows) if batch is None or batch == len(rows) else self._run_in_batches(rows, batch)
        # Of a few numbers, Python is quicker to find that their sum is finite.
        if predictions.size <= _FEW_NUMBERS and math.isfinite(sum(predictions.ravel().tolist())):
            return predictions
        finite = np.isfinite(predictions)
        if not finite.all():
            row = int(finite.reshape(len(finite), -1).all(axis=1).argmin())
            raise InvalidRowsError(
                (row,), "has no finite answer from the model; expected numbers like those it was trained on"
            )
        return predictions

    def _run_in_batches(self, rows: Rows, batch: int) -> Array:
        answers = []
        for start in range(0, len(rows), batch):
            chunk = rows[start : start + batch]
            filled = chunk if len(chunk) == batch else chunk[np.arange(batch) % len(chunk)]
            answers.append(self._run(filled)[: len(chunk)])
        return np.concatenate(answers)

    def _run(self, rows: Rows) -> Array:
        try:
            [value] = self._session_run(self._outputs, self.signature.inputs.feed(rows), self._options)
        except Exception as error:
            if self.spec.is_free:
                logger.debug("model_failed", exc_info=True)
                raise InvalidRowsError((), f"has {_lengths(rows)}; the model takes other lengths") from error
            raise
        predictions = self._read(value)
        if len(predictions) != len(rows):
            raise RuntimeError(f"the model answered {len(rows)} rows with {len(predictions)}")
        return predictions


def _lengths(rows: Rows) -> str:
    if isinstance(rows, Columns):
        return "values of " + ", ".join(f"shape {array.shape[1:]} for {name}" for name, array in rows.arrays.items())
    return f"rows of shape {rows.shape[1:]}"


def _open_session(file: ModelFile, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # By default one inference takes all processors of the machine, and spins on them while it waits.
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    if file.receipt is None or file.receipt.external_data:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.directory))
    try:
        return ort.InferenceSession(file.content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = one_line(error)
        raise StartError(
            "model-not-loadable",
            f"MODEL_FILEPATH: {file.path} cannot be loaded as an ONNX model: {reason}",
            remedy(file.content, reason),
        ) from error
