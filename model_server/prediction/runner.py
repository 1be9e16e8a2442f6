"""Runs long predictions in threads; short predictions run on the event loop."""

import asyncio
import contextvars
import ctypes
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Barrier
from typing import Any

from model_server.model.session import Stop, current_stop

# Handing work to a thread costs 50 us or more; longer work on the event loop would delay other requests.
INLINE_SECONDS = 0.002

_IDLE_SECONDS = 1
# A stopped inference normally ends at its next operator, long before these times.
_OCCUPIED_SECONDS = 0.5
_STUCK_SECONDS = 10.0
# glibc keeps the memory that threads free; malloc_trim returns it to the system.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

Done = Callable[[Any, BaseException | None], None]


class Job:
    """Work for a thread. If its result is no longer needed, started work is stopped and other work is dropped."""

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
        """Drop the result of this job."""
        self._take_done()

    def deliver(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 (any result)
        """Call `done` with the result or the error, unless it has been called or the job is cancelled."""
        if done := self._take_done():
            done(result, error)

    def run(self) -> tuple[Any, BaseException | None]:
        """Do the work in the context that submitted it, unless the job is cancelled."""
        # Set `is_running` before reading the work: either this sees the cancellation, or the event loop sees the start.
        self.is_running = True
        work = self._work
        try:
            return (self._context.run(work), None) if work else (None, None)
        except BaseException as error:  # noqa: BLE001 (any error is delivered)
            return None, error

    def _take_done(self) -> Done | None:
        done, self._done = self._done, None
        if done:
            self._work = None  # frees the request body
            if self._timer:
                self._timer.cancel()
            if self.is_running:
                self._stop.set()
                self._runner.abandon(self)
        return done


class Runner:
    """Runs jobs in threads, in the order of their submission. All methods must be called on the event loop.

    Args:
        threads: number of threads; it also bounds the memory that large requests can use.

    Attributes:
        threads: as above.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        # Start all threads now: a thread that fails to start later, for lack of memory, would block the event loop.
        started = Barrier(threads + 1)
        for _ in range(threads):
            self._executor.submit(started.wait)
        started.wait()
        self.threads = threads
        # Running jobs whose results are no longer needed, with the time of their cancellation, in that order.
        self._abandoned: dict[Job, float] = {}
        self._pending = 0
        self._is_trim_due = False

    @property
    def is_occupied(self) -> bool:
        """Whether all threads run abandoned jobs that have not stopped at once."""
        return self._are_all_abandoned_for(_OCCUPIED_SECONDS)

    @property
    def is_stuck(self) -> bool:
        """Whether all threads have run abandoned jobs for so long that the jobs must be stuck."""
        return self._are_all_abandoned_for(_STUCK_SECONDS)

    def _are_all_abandoned_for(self, seconds: float) -> bool:
        if len(self._abandoned) < self.threads:
            return False
        return time.monotonic() - next(reversed(self._abandoned.values())) >= seconds

    def abandon(self, job: Job) -> None:
        """Record that the result of a running job is no longer needed."""
        self._abandoned[job] = time.monotonic()

    def submit(self, work: Callable[[], Any], done: Done, timeout: float | None) -> Job:
        """Run the work as soon as a thread is free, and call `done` with its result or its error.

        After `timeout` seconds, unless `timeout` is None, `done` is called with a `TimeoutError` instead. Started
        work is then stopped and other work is dropped.
        """
        job = Job(self, work, done, timeout)
        self._pending += 1
        self._executor.submit(self._run, asyncio.get_running_loop(), job)
        return job

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 (any result)
        """Return the result of a function that runs in a thread; if the caller is cancelled, the work is stopped."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(value: Any, error: BaseException | None) -> None:  # noqa: ANN401 (any result)
            if result.cancelled():
                return
            if error:
                result.set_exception(error)
            else:
                result.set_result(value)

        job = self.submit(partial(function, *arguments), done, None)
        try:
            return await result
        finally:
            job.cancel()

    def _run(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        result, error = job.run()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._finish, job, result, error)

    def _finish(self, job: Job, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 (any result)
        job.is_running = False
        self._pending -= 1
        self._abandoned.pop(job, None)
        if not self._pending and not self._is_trim_due:
            self._is_trim_due = True
            asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._trim)
        job.deliver(result, error)

    def _trim(self) -> None:
        """Return the freed memory of large requests to the system if no job is pending."""
        self._is_trim_due = False
        if not self._pending and _malloc_trim:
            self._executor.submit(_malloc_trim, 0)
