"""Loading a model within bounds: its trial inference may never end."""

import os
import threading
from collections.abc import Callable

from model_server.errors import StartError
from model_server.model.model import Model
from model_server.settings import Settings

_FIRST_SECONDS = 5.0


def load_model(settings: Settings, say: Callable[[float], None]) -> Model:
    """Return the model at `MODEL_FILEPATH`, loaded in a thread, so that signals are handled meanwhile.

    Args:
        settings: say which model, and how long it may take.
        say: called once with the seconds so far, if that takes long.

    Raises:
        StartError: the model cannot be served, or has not answered in time.
    """
    results: list[Model | BaseException] = []
    is_done = threading.Event()

    def load() -> None:
        try:
            results.append(Model.load(settings))
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            results.append(error)
        is_done.set()

    threading.Thread(target=load, name="load", daemon=True).start()
    try:
        longest = settings.start_timeout_seconds
        if not is_done.wait(min(_FIRST_SECONDS, longest)):
            say(_FIRST_SECONDS)
            if not is_done.wait(longest - _FIRST_SECONDS):
                raise StartError(
                    "model-too-slow",
                    f"MODEL_FILEPATH: {settings.model_filepath} has not been loaded and answered a row within "
                    f"{longest:g} s",
                    "make it smaller, or raise START_TIMEOUT_SECONDS",
                )
    except SystemExit as end:
        # The thread may be in ONNX Runtime, which the interpreter's own end would pull away from under it.
        os._exit(end.code if isinstance(end.code, int) else 1)
    [result] = results
    if isinstance(result, BaseException):
        raise result
    return result
