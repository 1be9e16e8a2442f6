"""Ends a run at its deadline, or on SIGTERM or SIGINT.

Each of these raises an error in the main thread, where Python runs signal handlers. Signals do not interrupt some
calls, such as a name lookup or an fsync, so a second thread ends the process with os._exit if the main thread is stuck.
This is safe because a load can be killed at any time.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn

from loader.errors import DeadlineError, LoadError, TerminatedError

_GRACE_SECONDS = 0.6
_STOP_SIGNALS = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT)


class Deadline:
    """The deadline of a run that starts now.

    Attributes:
        seconds: the time limit of the run in seconds.
        started: the start of the run in UTC.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = datetime.now(UTC)
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the start of the run."""
        return time.monotonic() - self._start

    def remaining(self) -> float:
        """Return the remaining seconds, negative after the deadline."""
        return self.seconds - self.elapsed()


@contextmanager
def watchdog(
    seconds: float, activity: Callable[[], str], report_stuck: Callable[[LoadError], None]
) -> Iterator[Deadline]:
    """End the block at the deadline or on a signal; only for the main thread.

    Args:
        seconds: the time limit of the block in seconds.
        activity: returns the current activity, for the error's message.
        report_stuck: reports the error if the main thread is stuck, before the process ends.

    Raises:
        DeadlineError: the deadline passed.
        TerminatedError: the process received SIGTERM or SIGINT.
    """
    stop_signals = _StopSignals(seconds, activity)
    watched, waker = socket.socketpair()
    watched.settimeout(seconds + _GRACE_SECONDS)
    waker.setblocking(False)  # noqa: FBT003 (the standard library's own signature)
    thread = threading.Thread(target=_watch, args=(watched, stop_signals, report_stuck), name="watchdog", daemon=True)
    thread.start()
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, stop_signals.interrupt) for number in _STOP_SIGNALS}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield Deadline(seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        waker.close()
        thread.join()
        watched.close()


class _StopSignals:
    def __init__(self, seconds: float, activity: Callable[[], str]) -> None:
        self._seconds = seconds
        self._activity = activity

    def interrupt(self, number: int, _: FrameType | None) -> NoReturn:
        """Raise the error for the first signal, and ignore further signals while the run ends."""
        for stop_signal in _STOP_SIGNALS:
            signal.signal(stop_signal, lambda *_: None)
        raise self.error(number)

    def error(self, number: int) -> LoadError:
        if number == signal.SIGALRM:
            return DeadlineError(
                "deadline-passed",
                f"LOAD_TIMEOUT_SECONDS={self._seconds:g} passed while {self._activity()}: increase it, or find the "
                "step that is slow or fails",
            )
        return TerminatedError(
            "terminated", f"{signal.Signals(number).name} stopped the load while {self._activity()}: run it again"
        )


def _watch(watched: socket.socket, stop_signals: _StopSignals, report_stuck: Callable[[LoadError], None]) -> None:
    """End the process if the main thread does not end the run soon after the first signal or the deadline.

    The wakeup descriptor receives one byte per signal, even if the main thread is stuck, and is closed at the end.
    """
    try:
        numbers = watched.recv(1)
    except TimeoutError:
        numbers = bytes([signal.SIGALRM])
    if not numbers:
        return
    watched.settimeout(_GRACE_SECONDS)
    try:
        while watched.recv(1):
            pass
    except TimeoutError:
        error = stop_signals.error(numbers[0])
        report_stuck(error)
        os._exit(error.exit_code)
