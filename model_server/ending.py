"""How the process ends."""

import os
import sys
import threading
from typing import NoReturn


def end(status: int, seconds: float) -> NoReturn:
    """Exit with a status, the hard way after so many seconds: Python waits for threads, and so for inferences."""
    killer = threading.Timer(seconds, os._exit, [status])
    killer.daemon = True
    killer.start()
    sys.exit(status)
