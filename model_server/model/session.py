"""An ONNX Runtime session: how it is opened, and how an inference is stopped from another thread."""

from contextvars import ContextVar

import onnxruntime as ort

from model_server.errors import StartError
from model_server.model.model_file import ModelFile
from model_server.model.remedies import one_line, remedy

_EXPORT_AGAIN = "export it again, with its weights in files beside it under plain names"
_FATAL = 4  # of ONNX Runtime's log levels: its errors reach us as exceptions


class StoppedError(Exception):
    """An inference whose result is not needed any more was not begun."""


class Stop:
    """Stops the inferences of one request: the one that runs, before its next operator, and all after it."""

    __slots__ = ("_is_set", "_options")

    def __init__(self) -> None:
        self._is_set = False
        self._options: ort.RunOptions | None = None

    def set(self) -> None:
        """Stop them; any thread may call this."""
        self._is_set = True
        if self._options is not None:
            self._options.terminate = True

    def options(self) -> ort.RunOptions:
        """Return the options for the next inference.

        Raises:
            StoppedError: there must be none.
        """
        options = self._options = ort.RunOptions()
        # After the line above: so either this sees that it is set, or `set` sees the options.
        if self._is_set:
            raise StoppedError
        return options


# What stops the inferences of the request that this context is for; None where nothing does.
current_stop: ContextVar[Stop | None] = ContextVar("current_stop", default=None)


def open_session(file: ModelFile, threads: int) -> ort.InferenceSession:
    """Return a session on a file.

    Args:
        file: the ONNX model.
        threads: how many threads one inference uses.

    Raises:
        StartError: ONNX Runtime does not load it.
    """
    refused = f"MODEL_FILEPATH: {file.path} cannot be loaded as an ONNX model"
    options = ort.SessionOptions()
    # By default one inference takes all processors of the machine, and spins on them while it waits.
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    if file.receipt is None or file.receipt.external_data:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.directory))
    try:
        session = ort.InferenceSession(file.content, options, providers=["CPUExecutionProvider"])
        if any(map(_varies, session.get_inputs())):
            # It would keep memory and plans for every length that a row ever had.
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
            del session
            session = ort.InferenceSession(file.content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = one_line(error)
        raise StartError("model-not-loadable", f"{refused}: {reason}", remedy(file.content, reason)) from error
    if file.problem:  # ONNX Runtime has read files that the identity does not cover
        raise StartError("model-not-loadable", f"{refused}: {file.problem}", _EXPORT_AGAIN)
    return session


def _varies(found: ort.NodeArg) -> bool:
    """Return whether a row may have any length in an input; the width of a float matrix is fixed."""
    shape = found.shape or []
    is_matrix = len(shape) == 2 and found.type in ("tensor(float16)", "tensor(float)", "tensor(double)")  # noqa: PLR2004
    return "string" in found.type or not (is_matrix or all(isinstance(length, int) for length in shape[1:]))
