"""Opens ONNX Runtime sessions, and stops inferences from another thread."""

from contextvars import ContextVar

import onnxruntime as ort

from model_server.errors import StartError
from model_server.model.hints import hint_for_file, one_line
from model_server.model.model_file import ModelFile

_EXPORT_AGAIN = "export it again, with its weights in files next to it under plain names"
_FATAL = 4  # the ONNX Runtime log level; its errors are raised as exceptions anyway


class StoppedError(Exception):
    """The inference was stopped because its result is no longer needed."""


class Stop:
    """Stops the inferences of one request: the running one before its next operator, and all later ones."""

    __slots__ = ("_is_set", "_options")

    def __init__(self) -> None:
        self._is_set = False
        self._options: ort.RunOptions | None = None

    def set(self) -> None:
        """Stop the inferences. Thread-safe."""
        self._is_set = True
        if self._options is not None:
            self._options.terminate = True

    def options(self) -> ort.RunOptions:
        """Return the run options for the next inference.

        Raises:
            StoppedError: the request was stopped.
        """
        options = self._options = ort.RunOptions()
        # Check after storing the options: a concurrent `set` is either seen here or terminates these options.
        if self._is_set:
            raise StoppedError
        return options


# The `Stop` for the request of the current context; None if its inferences cannot be stopped.
current_stop: ContextVar[Stop | None] = ContextVar("current_stop", default=None)


def open_session(file: ModelFile, threads: int) -> ort.InferenceSession:
    """Return a session for a model file.

    Args:
        file: the ONNX model.
        threads: number of threads that one inference uses.

    Raises:
        StartError: ONNX Runtime cannot load the file.
    """
    refused = f"MODEL_FILEPATH: {file.path} cannot be loaded as an ONNX model"
    options = ort.SessionOptions()
    # By default, one inference uses all processors of the machine and spins on them while it waits.
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    if file.receipt is None or file.receipt.external_data:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.directory))
    try:
        session = ort.InferenceSession(file.content, options, providers=["CPUExecutionProvider"])
        if any(map(_varies, session.get_inputs())):
            # The arena and the memory patterns would keep memory for every row length ever seen.
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
            del session
            session = ort.InferenceSession(file.content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = one_line(error)
        raise StartError("model-not-loadable", f"{refused}: {reason}", hint_for_file(file.content, reason)) from error
    if file.problem:  # ONNX Runtime read files that the identity does not cover
        raise StartError("model-not-loadable", f"{refused}: {file.problem}", _EXPORT_AGAIN)
    return session


def _varies(found: ort.NodeArg) -> bool:
    """Return whether rows of an input may differ in size. A float matrix has a fixed width even if it declares none."""
    shape = found.shape or []
    is_matrix = len(shape) == 2 and found.type in ("tensor(float16)", "tensor(float)", "tensor(double)")  # noqa: PLR2004
    return "string" in found.type or not (is_matrix or all(isinstance(length, int) for length in shape[1:]))
