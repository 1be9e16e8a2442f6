"""Exiting the process within a time limit."""

import os
import sys
import threading
from typing import NoReturn


def end(status: int, seconds: float) -> NoReturn:
    """Exit with a status, by `os._exit` after `seconds`: Python waits for its threads, and so for their inferences."""
    killer = threading.Timer(seconds, os._exit, [status])
    killer.daemon = True
    killer.start()
    sys.exit(status)
