"""Where a prediction runs: a short one on the event loop, any other in a thread."""

import asyncio
import contextvars
import ctypes
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

# Handing work to a thread costs 50 us or more; longer work on the event loop would delay other requests.
INLINE_SECONDS = 0.002

_IDLE_SECONDS = 1
# Of glibc; it keeps what threads have freed.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

Done = Callable[[Any, BaseException | None], None]


class Job:
    """Work for a thread. Once a thread has begun it, it goes on to its end, whether its result is wanted or not.

    Attributes:
        is_waiting: whether no thread was free yet.
        is_running: whether a thread is at it.
    """

    __slots__ = ("_context", "_done", "_runner", "_timer", "_work", "is_running", "is_waiting")

    def __init__(self, runner: "Runner", work: Callable[[], Any], done: Done) -> None:
        self._work = work
        self.is_waiting = self.is_running = False
        self._runner = runner
        self._done: Done | None = done
        self._context = contextvars.copy_context()
        self._timer: asyncio.TimerHandle | None = None

    def expire_after(self, seconds: float) -> None:
        """Deliver a `TimeoutError` if there is no result after so many seconds."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.deliver, None, TimeoutError())

    def cancel(self) -> None:
        """Deliver nothing any more."""
        self._take_done()

    def deliver(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 (of the work)
        """Call back with the result or the error, unless that has been done."""
        if done := self._take_done():
            done(result, error)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for the result."""
        return self._done is not None

    def run(self) -> tuple[Any, BaseException | None]:
        """Do the work in the context that it was submitted from."""
        try:
            return self._context.run(self._work), None
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is delivered)
            return None, error

    def _take_done(self) -> Done | None:
        done, self._done = self._done, None
        if done:
            if self._timer:
                self._timer.cancel()
            self._runner.drop(self)
        return done


class Runner:
    """Runs jobs in threads, in the order of their submission; all methods are for the thread of the event loop.

    Args:
        threads: how many run at once. They bound the memory that large requests can take, too.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        # They begin now: one that begins when memory is short may die unseen, and the event loop would wait for it.
        begun = Barrier(threads + 1)
        for _ in range(threads):
            self._executor.submit(begun.wait)
        begun.wait()
        self._threads = self._free = threads
        self._waiting: deque[Job] = deque()
        self._abandoned = 0
        self._is_trim_due = False

    @property
    def threads(self) -> int:
        """How many jobs run at once."""
        return self._threads

    @property
    def is_stuck(self) -> bool:
        """Whether all threads are in jobs whose results nobody waits for any more."""
        return self._abandoned >= self._threads

    def submit(self, work: Callable[[], Any], done: Done, timeout: float) -> Job:
        """Do the work as soon as a thread is free, and call `done` with its result or its error.

        After `timeout` seconds, `done` is called with a `TimeoutError`. Work that has begun goes on; other work is
        dropped.
        """
        job = Job(self, work, done)
        job.expire_after(timeout)
        if self._free:
            self._start(job)
        else:
            job.is_waiting = True
            self._waiting.append(job)
        return job

    def drop(self, job: Job) -> None:
        """Take note that a job is settled: a result that arrives later is for nobody."""
        if job.is_running:
            self._abandoned += 1
        elif job.is_waiting:
            self._waiting.remove(job)

    def _start(self, job: Job) -> None:
        self._free -= 1
        job.is_waiting = False
        job.is_running = True
        self._executor.submit(self._run, asyncio.get_running_loop(), job)

    def _run(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        result, error = job.run()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._finish, job, result, error)

    def _finish(self, job: Job, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 (of the work)
        job.is_running = False
        self._free += 1
        if not job.is_wanted:
            self._abandoned -= 1
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._free == self._threads and not self._is_trim_due:
            self._is_trim_due = True
            asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._trim)
        job.deliver(result, error)

    def _trim(self) -> None:
        """Give the memory of large requests back to the system, if there are none any more."""
        self._is_trim_due = False
        if self._free == self._threads and _malloc_trim:
            self._executor.submit(_malloc_trim, 0)
