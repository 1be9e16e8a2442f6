"""Rows of several requests, answered together by one call; no request waits for others to come."""

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
# Takes the answers, or the error in place of them.
Deliver = Callable[[Answers | None, BaseException | None], None]
# Takes how many rows a call has answered, and its seconds.
Observe = Callable[[int, float], None]


class Entry:
    """The rows of one request, which wait for their answers.

    Args:
        rows: the rows.
        deliver: called once with their answers or an error.
        span: of the request, where it is traced.
    """

    __slots__ = ("deliver", "rows", "span")

    def __init__(self, rows: Rows, deliver: Deliver, span: object = None) -> None:
        self.rows = rows
        self.deliver: Deliver | None = deliver
        self.span = span

    def cancel(self) -> None:
        """Deliver nothing any more."""
        self.deliver = None


# Takes the rows of several requests, and these; returns one answer per row, in order.
Call = Callable[[Rows, Sequence[Entry]], Answers]


class LoopBatches:
    """Answers the rows that arrive in one turn of the event loop, as soon as the loop has read what was there.

    Args:
        call: answers rows. When it fails, it is called again with the rows of each request alone, so that those of
            one do not fail another.
        max_rows: the most rows of one call.
        observe: is told of each call that has succeeded.
    """

    def __init__(self, call: Call, max_rows: int, observe: Observe) -> None:
        self._call = call
        self._observe = observe
        self._arrived: list[Entry] = []
        self.max_rows = max_rows

    def submit(self, rows: Rows, deliver: Deliver, span: object = None) -> Entry:
        """Answer at most `max_rows` rows, after this has returned.

        Args:
            rows: the rows.
            deliver: called once with their answers or an error.
            span: of the request, where it is traced.
        """
        entry = Entry(rows, deliver, span)
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._flush)
        self._arrived.append(entry)
        return entry

    def _flush(self) -> None:
        arrived, self._arrived = self._arrived, []
        for batch in _fill(arrived, self.max_rows):
            for entry, answers, error in _answer(self._call, batch, self._observe):
                if entry.deliver:
                    entry.deliver(answers, error)


class ThreadBatches:
    """Answers in threads the rows that have arrived when a thread is free.

    While inferences run, rows queue; a thread that is free takes as many as one call may have.

    Args:
        call: as for `LoopBatches`.
        max_rows: the most rows of one call.
        observe: is told of each call that has succeeded.
        runner: has the threads.
        timeout: seconds after which a `TimeoutError` is delivered.
    """

    def __init__(self, call: Call, max_rows: int, observe: Observe, runner: Runner, timeout: float) -> None:
        self._call = call
        self._observe = observe
        self._runner = runner
        self._timeout = timeout
        self._waiting: deque[_TimedEntry] = deque()
        self._rows = 0  # that wait
        self._begun_later = 0  # jobs that no thread has begun
        # Threads take entries while the event loop adds and drops them.
        self._lock = threading.Lock()
        self.max_rows = max_rows

    def submit(self, rows: Rows, deliver: Deliver, span: object = None) -> Entry:
        """Answer at most `max_rows` rows, after this has returned; as `LoopBatches.submit`."""
        entry = _TimedEntry(rows, deliver, span)
        entry.timer = asyncio.get_running_loop().call_later(self._timeout, entry.time_out)
        with self._lock:
            self._waiting.append(entry)
            self._rows += len(rows)
        self._submit_jobs()
        return entry

    def _submit_jobs(self) -> None:
        while self._begun_later * self.max_rows < self._rows:
            self._begun_later += 1
            batch = _Batch()
            work = partial(self._run, asyncio.get_running_loop(), batch)
            batch.job = self._runner.submit(work, partial(self._finish, batch), None)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: "_Batch") -> list[tuple[int, float]]:
        """Answer what waits; for a thread."""
        calls: list[tuple[int, float]] = []
        with self._lock:
            self._begun_later -= 1
            size = 0
            while self._waiting and size + len(self._waiting[0].rows) <= self.max_rows:
                entry = self._waiting.popleft()
                self._rows -= len(entry.rows)
                entry.batch = batch
                if entry.deliver:
                    batch.entries.append(entry)
                    size += len(entry.rows)
            is_more = self._begun_later * self.max_rows < self._rows
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
    """Entries that a thread answers together, and what became of them."""

    __slots__ = ("entries", "job", "results")

    def __init__(self) -> None:
        self.entries: list[_TimedEntry] = []
        self.results: list[_Result] = []
        self.job: Job | None = None


class _TimedEntry(Entry):
    """An entry that waits for a bounded time.

    Attributes:
        timer: ends that time.
        batch: of which it is a part, once a thread has taken it.
    """

    __slots__ = ("batch", "timer")

    def __init__(self, rows: Rows, deliver: Deliver, span: object) -> None:
        super().__init__(rows, deliver, span)
        self.timer: asyncio.TimerHandle | None = None
        self.batch: _Batch | None = None

    def cancel(self) -> None:
        """Deliver nothing any more; a batch that nobody waits for any more is abandoned."""
        if self.timer:
            self.timer.cancel()
        # Before the look at the batch: so either this sees that a thread has it, or the thread that it is dropped.
        self.deliver = None
        if self.batch and self.batch.job and not any(entry.deliver for entry in self.batch.entries):
            self.batch.job.cancel()

    def time_out(self) -> None:
        """Deliver that the time is over."""
        if deliver := self.deliver:
            self.cancel()
            deliver(None, TimeoutError())


def _fill(entries: Sequence[Entry], max_rows: int) -> Iterator[list[Entry]]:
    """Yield the entries that are still wanted, in batches of at most so many rows."""
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
    """Yield each entry with its answers, or the error in place of them."""
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
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is delivered)
            yield entry, None, error
        else:
            observe(len(entry.rows), time.perf_counter() - began)
            yield entry, answers, None


def _call_together(call: Call, rows: Rows, batch: Sequence[Entry], observe: Observe) -> Answers | None:
    """Return an answer for each row, or None if the call fails."""
    began = time.perf_counter()
    try:
        answers = call(rows, batch)
    except Exception:  # noqa: BLE001 (whatever it is, each request will get its own)
        return None
    observe(len(rows), time.perf_counter() - began)
    # One conversion for all: each answer becomes JSON on its own.
    return answers.tolist() if isinstance(answers, np.ndarray) else answers
