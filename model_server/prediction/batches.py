"""Rows of several requests, answered together by one call."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from model_server.model.rows import Array

Answers = Array | Sequence[Any]
Call = Callable[[Array], Answers]
# Takes the answers, or the error in place of them.
Deliver = Callable[[Answers | None, Exception | None], None]
# Takes how many rows were answered by a call, and its seconds.
Observe = Callable[[int, float], None]


class Entry:
    """The rows of one request, which wait for their answers."""

    __slots__ = ("deliver", "rows")

    def __init__(self, rows: Array, deliver: Deliver) -> None:
        self.rows = rows
        self.deliver: Deliver | None = deliver

    def cancel(self) -> None:
        """Deliver nothing any more."""
        self.deliver = None


class Batches:
    """Answers the rows that arrive in the same turn of the event loop by one call.

    No request waits for others to come: the call is made as soon as the loop has read what was there. A call that
    fails is repeated for each request alone, so that the rows of one do not fail another.

    Args:
        call: takes the rows of several requests, and returns one answer per row, in order.
        max_rows: the most rows of one call.
        observe: is told of each call.
    """

    def __init__(self, call: Call, max_rows: int, observe: Observe) -> None:
        self._call = call
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._arrived: list[Entry] = []
        self.max_rows = max_rows

    def submit(self, rows: Array, deliver: Deliver) -> Entry:
        """Have at most `max_rows` rows answered, and `deliver` called once, after this has returned."""
        entry = Entry(rows, deliver)
        if not self._arrived:
            self._loop.call_soon(self._flush)
        self._arrived.append(entry)
        return entry

    def _flush(self) -> None:
        arrived, self._arrived = self._arrived, []
        for batch in _fill(arrived, self.max_rows):
            if len(batch) == 1 or not self._answer_together(batch):
                for entry in batch:
                    self._answer_alone(entry)

    def _answer_together(self, batch: list[Entry]) -> bool:
        """Return whether that succeeded."""
        rows = np.concatenate([entry.rows for entry in batch])
        began = time.perf_counter()
        try:
            answers = self._call(rows)
        except Exception:  # noqa: BLE001 (whatever it is, each request gets its own)
            return False
        if len(answers) != len(rows):
            return False
        self._observe(len(rows), time.perf_counter() - began)
        if isinstance(answers, np.ndarray):
            answers = answers.tolist()
        start = 0
        for entry in batch:
            end = start + len(entry.rows)
            if entry.deliver:
                entry.deliver(answers[start:end], None)
            start = end
        return True

    def _answer_alone(self, entry: Entry) -> None:
        if not entry.deliver:
            return
        began = time.perf_counter()
        try:
            answers = self._call(entry.rows)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is delivered)
            entry.deliver(None, error)
            return
        self._observe(len(entry.rows), time.perf_counter() - began)
        entry.deliver(answers, None)


def _fill(entries: list[Entry], max_rows: int) -> Iterator[list[Entry]]:
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
