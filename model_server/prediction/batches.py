"""Batches the rows of several requests into one call, without delaying a request to wait for others."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from model_server.model.rows import Array, Rows, concatenate
from model_server.prediction.runner import Job, Runner

Answers = Array | Sequence[Any]
# Receives the answers, or else the error.
Deliver = Callable[[Answers | None, BaseException | None], None]
# Receives the number of rows of a successful call and its duration in seconds.
Observe = Callable[[int, float], None]


class Entry:
    """The rows of one request that waits for its answers.

    Args:
        rows: the rows.
        deliver: called once with the answers or an error.
        span: tracing span of the request; None if it is not traced.
        ask: the rest of the request, for the call.
    """

    __slots__ = ("ask", "deliver", "rows", "span")

    def __init__(self, rows: Rows, deliver: Deliver, span: object = None, ask: Any = None) -> None:  # noqa: ANN401
        self.rows = rows
        self.deliver: Deliver | None = deliver
        self.span = span
        self.ask = ask

    def cancel(self) -> None:
        """Drop the result of this entry."""
        self.deliver = None


# Takes the rows of several requests and their entries; returns one answer per row, in order.
Call = Callable[[Rows, Sequence[Entry]], Answers]


class LoopBatches:
    """Answers on the event loop; the requests that arrive in one iteration of the loop share a call.

    Args:
        call: answers rows. If it fails, it is called again for each request separately, so that a bad request does not
            fail the others.
        max_rows: maximum number of rows of one call.
        observe: called after each successful call.
    """

    def __init__(self, call: Call, max_rows: int, observe: Observe) -> None:
        self._call = call
        self._observe = observe
        self._arrived: list[Entry] = []
        self.max_rows = max_rows

    def submit(self, rows: Rows, deliver: Deliver, span: object = None, ask: object = None) -> Entry:
        """Submit at most `max_rows` rows; they are answered after this method has returned.

        Args:
            rows: the rows.
            deliver: called once with the answers or an error.
            span: tracing span of the request; None if it is not traced.
            ask: the rest of the request, for the call.
        """
        entry = Entry(rows, deliver, span, ask)
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._flush)
        self._arrived.append(entry)
        return entry

    def _flush(self) -> None:
        arrived, self._arrived = self._arrived, []
        for batch in _split_into_batches(arrived, self.max_rows):
            for entry, answers, error in _answer(self._call, batch, self._observe):
                if entry.deliver:
                    entry.deliver(answers, error)


class ThreadBatches:
    """Answers in threads; the requests that are queued when a thread becomes free share a call.

    Args:
        call: as for `LoopBatches`.
        max_rows: maximum number of rows of one call.
        observe: called after each successful call.
        runner: runs the calls in its threads.
        timeout: seconds after which a `TimeoutError` is delivered.
    """

    def __init__(self, call: Call, max_rows: int, observe: Observe, runner: Runner, timeout: float) -> None:
        self._call = call
        self._observe = observe
        self._runner = runner
        self._timeout = timeout
        self._waiting: deque[_TimedEntry] = deque()
        self._waiting_rows = 0
        self._pending_jobs = 0  # jobs that no thread has started
        # Threads take entries while the event loop adds and drops entries.
        self._lock = threading.Lock()
        self.max_rows = max_rows

    def submit(self, rows: Rows, deliver: Deliver, span: object = None, ask: object = None) -> Entry:
        """Submit at most `max_rows` rows, in the same way as `LoopBatches.submit`."""
        entry = _TimedEntry(rows, deliver, span, ask)
        entry.timer = asyncio.get_running_loop().call_later(self._timeout, entry.time_out)
        with self._lock:
            self._waiting.append(entry)
            self._waiting_rows += len(rows)
        self._submit_jobs()
        return entry

    def _submit_jobs(self) -> None:
        while self._pending_jobs * self.max_rows < self._waiting_rows:
            self._pending_jobs += 1
            batch = _Batch()
            work = partial(self._run, asyncio.get_running_loop(), batch)
            batch.job = self._runner.submit(work, partial(self._finish, batch), None)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: "_Batch") -> list[tuple[int, float]]:
        """Answer waiting entries; runs in a thread."""
        calls: list[tuple[int, float]] = []
        with self._lock:
            self._pending_jobs -= 1
            size = 0
            while self._waiting and size + len(self._waiting[0].rows) <= self.max_rows:
                entry = self._waiting.popleft()
                self._waiting_rows -= len(entry.rows)
                entry.batch = batch
                if entry.deliver:
                    batch.entries.append(entry)
                    size += len(entry.rows)
            is_more = self._pending_jobs * self.max_rows < self._waiting_rows
        if is_more:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._submit_jobs)
        batch.results += _answer(self._call, batch.entries, lambda rows, seconds: calls.append((rows, seconds)))
        return calls

    def _finish(self, batch: "_Batch", calls: list[tuple[int, float]] | None, error: BaseException | None) -> None:
        for rows, seconds in calls or ():
            self._observe(rows, seconds)
        if error:
            batch.results = [(entry, None, error) for entry in batch.entries]
        for entry, answers, failure in batch.results:
            if deliver := entry.deliver:
                entry.cancel()
                deliver(answers, failure)


_Result = tuple[Entry, Answers | None, BaseException | None]


class _Batch:
    """Entries that a thread answers together, and their results."""

    __slots__ = ("entries", "job", "results")

    def __init__(self) -> None:
        self.entries: list[_TimedEntry] = []
        self.results: list[_Result] = []
        self.job: Job | None = None


class _TimedEntry(Entry):
    """An entry with a timeout.

    Attributes:
        timer: delivers the timeout.
        batch: the batch of the entry, once a thread has taken it.
    """

    __slots__ = ("batch", "timer")

    def __init__(self, rows: Rows, deliver: Deliver, span: object, ask: object) -> None:
        super().__init__(rows, deliver, span, ask)
        self.timer: asyncio.TimerHandle | None = None
        self.batch: _Batch | None = None

    def cancel(self) -> None:
        """Drop the result of this entry; a batch whose entries are all cancelled is abandoned."""
        if self.timer:
            self.timer.cancel()
        # Clear `deliver` before reading `batch`: either the thread sees the cancellation, or this sees the batch.
        self.deliver = None
        if self.batch and self.batch.job and not any(entry.deliver for entry in self.batch.entries):
            self.batch.job.cancel()

    def time_out(self) -> None:
        """Deliver a `TimeoutError`."""
        if deliver := self.deliver:
            self.cancel()
            deliver(None, TimeoutError())


def _split_into_batches(entries: Sequence[Entry], max_rows: int) -> Iterator[list[Entry]]:
    """Yield the entries that are not cancelled, in batches of at most `max_rows` rows."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if not entry.deliver:
            continue
        count = len(entry.rows)
        if size + count > max_rows and batch:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += count
    if batch:
        yield batch


def _answer(call: Call, batch: Sequence[Entry], observe: Observe) -> Iterator[_Result]:
    """Yield each entry with its answers, or else with the error."""
    if len(batch) > 1:
        rows = concatenate([entry.rows for entry in batch])
        answers = _call_together(call, rows, batch, observe)
        if answers is not None:
            start = 0
            for entry in batch:
                end = start + len(entry.rows)
                yield entry, answers[start:end], None
                start = end
            return
    for entry in batch:
        began = time.perf_counter()
        try:
            answers = call(entry.rows, (entry,))
        except BaseException as error:  # noqa: BLE001 (any error is delivered)
            yield entry, None, error
        else:
            observe(len(entry.rows), time.perf_counter() - began)
            yield entry, answers, None


def _call_together(call: Call, rows: Rows, batch: Sequence[Entry], observe: Observe) -> Answers | None:
    """Return one answer per row, or None if the call fails."""
    began = time.perf_counter()
    try:
        answers = call(rows, batch)
    except Exception:  # noqa: BLE001 (each request is tried separately then)
        return None
    observe(len(rows), time.perf_counter() - began)
    # Each answer is encoded separately, and one conversion of the whole array is faster than many.
    return answers.tolist() if isinstance(answers, np.ndarray) else answers
