"""Loading a model within bounds: its trial inference may never end."""

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from model_server.errors import StartError
from model_server.settings import Settings

if TYPE_CHECKING:
    from model_server.model.model import Model

_FIRST_SECONDS = 5.0


class SlowModelError(StartError):
    """A model that is still in ONNX Runtime: the process has to end the hard way."""


def load_model(settings: Settings, say: Callable[[float], None]) -> "Model":
    """Return the model at `MODEL_FILEPATH`, loaded in a thread, so that signals are handled meanwhile.

    Args:
        settings: say which model, and how long it may take.
        say: called once with the seconds so far, if that takes long.

    Raises:
        StartError: the model cannot be served.
        SlowModelError: it has not answered in time.
    """
    from model_server.model.model import Model  # noqa: PLC0415 (the parent of the workers does not load one)

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
        first = min(_FIRST_SECONDS, longest / 2)
        if not is_done.wait(first):
            say(first)
            if not is_done.wait(longest - first):
                raise SlowModelError(
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
