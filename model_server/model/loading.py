"""Loads a model within a time limit, because its first inference may never end."""

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
    """ONNX Runtime is still loading or running the model, so the process must exit with `os._exit`."""


def load_model(settings: Settings, report_delay: Callable[[float], None]) -> "Model":
    """Return the model at `MODEL_FILEPATH`. It is loaded in a thread so that signals are handled while it loads.

    Args:
        settings: the service settings; they name the model and its time limit.
        report_delay: called once with the elapsed seconds if loading takes long.

    Raises:
        StartError: the model cannot be served.
        SlowModelError: the model was not loaded, or made no first prediction, in time.
    """
    from model_server.model.model import Model  # noqa: PLC0415 (the supervising parent process loads no model)

    results: list[Model | BaseException] = []
    is_done = threading.Event()

    def load() -> None:
        try:
            results.append(Model.load(settings))
        except BaseException as error:  # noqa: BLE001 (raised in the waiting thread)
            results.append(error)
        is_done.set()

    threading.Thread(target=load, name="load", daemon=True).start()
    try:
        longest = settings.start_timeout_seconds
        first = min(_FIRST_SECONDS, longest / 2)
        if not is_done.wait(first):
            report_delay(first)
            if not is_done.wait(longest - first):
                raise SlowModelError(
                    "model-too-slow",
                    f"MODEL_FILEPATH: {settings.model_filepath} was not loaded, or made no first prediction, within "
                    f"{longest:g} s",
                    "use a smaller model, or raise START_TIMEOUT_SECONDS",
                )
    except SystemExit as end:
        # The thread may be in ONNX Runtime, which can crash if the interpreter finalizes while it runs.
        os._exit(end.code if isinstance(end.code, int) else 1)
    [result] = results
    if isinstance(result, BaseException):
        raise result
    return result
