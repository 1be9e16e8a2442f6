"""Any ONNX classifier, as a function from rows to class probabilities."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from model_server.errors import StartError
from model_server.model.model_file import ModelFile
from model_server.model.remedies import remedy
from model_server.model.rows import Array, InvalidRowsError
from model_server.model.signature import one_line, read_signature

logger = logging.getLogger("model_server")

_FEW_NUMBERS = 256
_EXPORT_AGAIN = "export it again, with its weights in files beside it under plain names"
_FATAL = 4  # of ONNX Runtime's log levels: its errors reach us as exceptions


class Classifier:
    """An ONNX Runtime session that turns rows into class probabilities.

    Args:
        file: the ONNX model; its bytes are needed no longer once this is made.
        labels: name of each class; None takes any number of classes.
        threads: how many threads one inference uses.

    Attributes:
        signature: how the model is called.
        spec: type and shape of the rows that it takes.
        feature_names: what to call the values of a row; empty when the model does not say.
        sample: a row of shape (1, *row_shape) that the model has answered.
        sample_probabilities: its answer, of shape (1, classes).

    Raises:
        StartError: the file cannot be loaded, or is not a classifier with one class a label.
    """

    def __init__(self, file: ModelFile, labels: Sequence[str] | None, threads: int = 1) -> None:
        session = _open_session(file, threads)
        try:
            self.signature = read_signature(session, labels)
        except StartError as error:
            raise StartError(error.code, f"MODEL_FILEPATH: {file.path} {error.reason}", error.change) from error
        self._session_run = session.run
        self._options = ort.RunOptions()  # kept: without, ONNX Runtime makes new ones for each call
        self._outputs = [self.signature.output]
        self.spec = self.signature.spec
        self.feature_names = self.signature.feature_names
        self.sample = self.signature.sample
        self.sample_probabilities = self.probabilities(self.sample)

    def probabilities(self, rows: Array) -> Array:
        """Return the class probabilities of each row, of shape (N, classes) in the model's output type.

        Args:
            rows: array of shape (N, *row_shape) and the model's dtype.

        Raises:
            InvalidRowsError: a row has no finite answer, or a dimension that the model leaves free has a length that
                it does not take.
            Exception: the model failed; ONNX Runtime's errors have no other base in common.
        """
        batch = self.signature.batch
        matrix = self._run(rows) if batch is None or batch == len(rows) else self._run_in_batches(rows, batch)
        # Of a few numbers, Python is quicker to find that their sum is finite.
        if matrix.size <= _FEW_NUMBERS and math.isfinite(sum(map(sum, matrix.tolist()))):
            return matrix
        finite = np.isfinite(matrix)
        if not finite.all():
            row = int(finite.all(axis=1).argmin())
            raise InvalidRowsError(
                (row,), "has no finite answer from the model; expected numbers like those it was trained on"
            )
        return matrix

    def _run_in_batches(self, rows: Array, batch: int) -> Array:
        answers = []
        for start in range(0, len(rows), batch):
            chunk = rows[start : start + batch]
            filled = np.resize(chunk, (batch, *chunk.shape[1:]))
            answers.append(self._run(filled)[: len(chunk)])
        return np.concatenate(answers)

    def _run(self, rows: Array) -> Array:
        try:
            [value] = self._session_run(self._outputs, {self.signature.input: rows}, self._options)
        except Exception as error:
            if None in self.spec.row_shape:
                logger.debug("model_failed", exc_info=True)
                raise InvalidRowsError(
                    (), f"has rows of shape {rows.shape[1:]}; the model takes other lengths"
                ) from error
            raise
        matrix = self.signature.to_matrix(value)
        if len(matrix) != len(rows):
            raise RuntimeError(f"the model answered {len(rows)} rows with {len(matrix)}")
        return matrix


def _open_session(file: ModelFile, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # By default one inference takes all processors of the machine, and spins on them while it waits.
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    if file.receipt is None or file.receipt.external_data:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.directory))
    refused = f"MODEL_FILEPATH: {file.path} cannot be loaded as an ONNX model"
    try:
        session = ort.InferenceSession(file.content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = one_line(error)
        raise StartError("model-not-loadable", f"{refused}: {reason}", remedy(file.content, reason)) from error
    if file.problem:  # ONNX Runtime has read files that the identity does not cover
        raise StartError("model-not-loadable", f"{refused}: {file.problem}", _EXPORT_AGAIN)
    return session
