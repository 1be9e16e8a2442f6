"""The end of a run that would not end by itself: the deadline, SIGTERM and SIGINT.

Each raises its error in the main thread, where Python runs signal handlers. A main thread that is stuck in a call
which signals do not interrupt (a name look-up, an fsync) would never see it, so a second thread watches for that,
and ends the process the hard way: a load may be killed at any instant.
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
    """A moment, `seconds` from now, that a run must not outlive.

    Attributes:
        seconds: how long the run may take.
        started: when it began, in UTC.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = datetime.now(UTC)
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self._start

    def remaining(self) -> float:
        """Return the seconds that are left, negative once the moment has passed."""
        return self.seconds - self.elapsed()


@contextmanager
def watchdog(
    seconds: float, activity: Callable[[], str], report_stuck: Callable[[LoadError], None]
) -> Iterator[Deadline]:
    """End the block when the time is up or a signal asks for it; to be used in the main thread.

    Args:
        seconds: how long the block may take.
        activity: tells what the run is doing, for the error's message.
        report_stuck: reports the error when the main thread is stuck; the process ends right after.

    Raises:
        DeadlineError: the time was up.
        TerminatedError: SIGTERM or SIGINT came.
    """
    endings = _StopSignals(seconds, activity)
    watched, waker = socket.socketpair()
    watched.settimeout(seconds + _GRACE_SECONDS)
    waker.setblocking(False)  # noqa: FBT003 (the standard library's own signature)
    thread = threading.Thread(target=_watch, args=(watched, endings, report_stuck), name="watchdog", daemon=True)
    thread.start()
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    previous = {ending: signal.signal(ending, endings.interrupt) for ending in _STOP_SIGNALS}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield Deadline(seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for ending, handler in previous.items():
            signal.signal(ending, handler)
        signal.set_wakeup_fd(-1)
        waker.close()
        thread.join()
        watched.close()


class _StopSignals:
    def __init__(self, seconds: float, activity: Callable[[], str]) -> None:
        self._seconds = seconds
        self._activity = activity

    def interrupt(self, number: int, _: FrameType | None) -> NoReturn:
        """Raise the error of the first signal; those that come while the run is ending change nothing."""
        for ending in _STOP_SIGNALS:
            signal.signal(ending, lambda *_: None)
        raise self.error(number)

    def error(self, number: int) -> LoadError:
        if number == signal.SIGALRM:
            return DeadlineError(
                "deadline-passed",
                f"LOAD_TIMEOUT_SECONDS={self._seconds:g} passed while {self._activity()}: increase it, or find out "
                "what is slow or fails",
            )
        return TerminatedError(
            "terminated", f"{signal.Signals(number).name} stopped the load while {self._activity()}: run it again"
        )


def _watch(watched: socket.socket, endings: _StopSignals, report_stuck: Callable[[LoadError], None]) -> None:
    """End the process when the main thread has not ended the run soon after the first signal or the deadline.

    The wakeup descriptor gets a byte for each signal, whatever the main thread is stuck in, and is closed at the end.
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
        error = endings.error(numbers[0])
        report_stuck(error)
        os._exit(error.exit_code)
