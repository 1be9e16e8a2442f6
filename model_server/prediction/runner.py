"""Where a prediction runs: a short one on the event loop, any other in a thread."""

import asyncio
import contextvars
import ctypes
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

from model_server.model.session import Stop, current_stop

# Handing work to a thread costs 50 us or more; longer work on the event loop would delay other requests.
INLINE_SECONDS = 0.002

_IDLE_SECONDS = 1
_STUCK_SECONDS = 10.0  # a stopped inference ends at its next operator, long before
# Of glibc; it keeps what threads have freed.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

Done = Callable[[Any, BaseException | None], None]


class Job:
    """Work for a thread. Once a thread has begun it, it is told to stop when nobody waits for its result any more."""

    __slots__ = ("_context", "_done", "_runner", "_stop", "_timer", "_work", "is_running")

    def __init__(self, runner: "Runner", work: Callable[[], Any], done: Done, timeout: float | None) -> None:
        self._runner = runner
        self._work: Callable[[], Any] | None = work
        self._done: Done | None = done
        self._stop = Stop()
        self._context = contextvars.copy_context()
        self._context.run(current_stop.set, self._stop)
        loop = asyncio.get_running_loop()
        self._timer = None if timeout is None else loop.call_later(timeout, self.deliver, None, TimeoutError())
        self.is_running = False

    def cancel(self) -> None:
        """Deliver nothing any more."""
        self._take_done()

    def deliver(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 (of the work)
        """Call back with the result or the error, unless that has been done."""
        if done := self._take_done():
            done(result, error)

    def run(self) -> tuple[Any, BaseException | None]:
        """Do the work in the context that it was submitted from, unless nobody waits for it any more."""
        # Before the look at the work: so either this sees that it is dropped, or the event loop that it runs.
        self.is_running = True
        work = self._work
        try:
            return (self._context.run(work), None) if work else (None, None)
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is delivered)
            return None, error

    def _take_done(self) -> Done | None:
        done, self._done = self._done, None
        if done:
            self._work = None  # and with it, the body of a request
            if self._timer:
                self._timer.cancel()
            if self.is_running:
                self._stop.set()
                self._runner.abandon(self)
        return done


class Runner:
    """Runs jobs in threads, in the order of their submission; all methods are for the thread of the event loop.

    Args:
        threads: how many run at once. They bound the memory that large requests can take, too.

    Attributes:
        threads: as above.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        # They begin now: one that begins when memory is short may die unseen, and the event loop would wait for it.
        begun = Barrier(threads + 1)
        for _ in range(threads):
            self._executor.submit(begun.wait)
        begun.wait()
        self.threads = threads
        # Jobs that run, and whose results nobody waits for any more, with the time since when; the latest is last.
        self._abandoned: dict[Job, float] = {}
        self._pending = 0
        self._is_trim_due = False

    @property
    def is_occupied(self) -> bool:
        """Whether all threads are in jobs whose results nobody waits for any more."""
        return len(self._abandoned) >= self.threads

    @property
    def is_stuck(self) -> bool:
        """Whether all threads have been in such jobs for so long that these do not stop."""
        return self.is_occupied and time.monotonic() - next(reversed(self._abandoned.values())) >= _STUCK_SECONDS

    def abandon(self, job: Job) -> None:
        """Count a job that runs as one that nobody waits for any more."""
        self._abandoned[job] = time.monotonic()

    def submit(self, work: Callable[[], Any], done: Done, timeout: float | None) -> Job:
        """Do the work as soon as a thread is free, and call `done` with its result or its error.

        After `timeout` seconds, unless that is None, `done` is called with a `TimeoutError`. Work that has begun is
        told to stop; other work is dropped.
        """
        job = Job(self, work, done, timeout)
        self._pending += 1
        self._executor.submit(self._run, asyncio.get_running_loop(), job)
        return job

    def _run(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        result, error = job.run()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._finish, job, result, error)

    def _finish(self, job: Job, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 (of the work)
        job.is_running = False
        self._pending -= 1
        self._abandoned.pop(job, None)
        if not self._pending and not self._is_trim_due:
            self._is_trim_due = True
            asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._trim)
        job.deliver(result, error)

    def _trim(self) -> None:
        """Give the memory of large requests back to the system, if there are none any more."""
        self._is_trim_due = False
        if not self._pending and _malloc_trim:
            self._executor.submit(_malloc_trim, 0)
