"""Exiting the process within a time limit."""

import os
import sys
import threading
from typing import NoReturn


def exit_within(status: int, seconds: float) -> NoReturn:
    """Exit with a status.

    After `seconds`, force the exit with `os._exit`, because Python waits for threads with running inferences.
    """
    killer = threading.Timer(seconds, os._exit, [status])
    killer.daemon = True
    killer.start()
    sys.exit(status)
