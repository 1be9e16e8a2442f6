"""Batched requests get their own answers, and a failing request does not affect the others."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from model_server.model.rows import Array, Rows
from model_server.prediction.batches import Entry, LoopBatches, ThreadBatches
from model_server.prediction.runner import Runner

LONG = 10.0


def rows(*numbers: float) -> Array:
    return np.array([[number] for number in numbers], np.float64)


class Model:
    """A model that doubles numbers and fails on negative numbers.

    Attributes:
        calls: the rows of each call.
        gate: it answers while this is set.
        begun: set by each call.
    """

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def __call__(self, rows: Rows, entries: Sequence[Entry]) -> Array:
        assert isinstance(rows, np.ndarray)
        assert sum(len(entry.rows) for entry in entries) == len(rows)
        self.calls.append(rows[:, 0].tolist())
        self.begun.set()
        assert self.gate.wait(LONG)
        if (rows < 0).any():
            raise ValueError("negative")
        return rows * 2


class Answered:
    """Delivered answers.

    Attributes:
        answers: the delivered answers or error by request name.
        observed: rows and whether time was taken, of each call that has succeeded.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.observed: list[int] = []

    def observe(self, rows: int, seconds: float) -> None:
        assert seconds > 0
        self.observed.append(rows)

    def by(self, name: str) -> Callable[[Any, BaseException | None], None]:
        def deliver(answers: Any, error: BaseException | None) -> None:
            assert name not in self.answers
            self.answers[name] = repr(error) if error else np.asarray(answers)[:, 0].tolist()

        return deliver

    async def until(self, count: int) -> None:
        async with asyncio.timeout(LONG):
            while len(self.answers) < count:  # noqa: ASYNC110 (polling is enough here)
                await asyncio.sleep(0.001)


async def busy_batches(model: Model, answered: Answered, max_rows: int) -> ThreadBatches:
    """Return batches whose only thread answers the request "first" until the model's gate is set."""
    model.gate.clear()
    batches = ThreadBatches(model, max_rows, answered.observe, Runner(1), LONG)
    batches.submit(rows(0), answered.by("first"))
    assert await asyncio.to_thread(model.begun.wait, LONG)
    return batches


def test_requests_of_one_loop_iteration_share_a_call() -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = LoopBatches(model, 4, answered.observe)
        batches.submit(rows(1), answered.by("a"))
        batches.submit(rows(2, 3), answered.by("b"))
        assert not model.calls
        await asyncio.sleep(0)
        assert answered.answers == {"a": [2], "b": [4, 6]}
        assert model.calls == [[1, 2, 3]]
        assert answered.observed == [3]

    asyncio.run(run())


def test_batches_have_at_most_the_maximum_number_of_rows() -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = LoopBatches(model, 4, answered.observe)
        for name, some in {"a": rows(1, 2, 3), "b": rows(4, 5), "c": rows(6), "d": rows(7, 8, 9, 10)}.items():
            batches.submit(some, answered.by(name))
        await asyncio.sleep(0)
        assert model.calls == [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]
        assert answered.answers == {"a": [2, 4, 6], "b": [8, 10], "c": [12], "d": [14, 16, 18, 20]}

    asyncio.run(run())


def test_a_failing_request_does_not_fail_the_others() -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = LoopBatches(model, 8, answered.observe)
        for name, number in {"a": 1, "b": -1, "c": 2}.items():
            batches.submit(rows(number), answered.by(name))
        await asyncio.sleep(0)
        assert answered.answers == {"a": [2], "b": "ValueError('negative')", "c": [4]}
        assert model.calls == [[1, -1, 2], [1], [-1], [2]]
        assert answered.observed == [1, 1]

    asyncio.run(run())


def test_a_cancelled_request_is_left_out() -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = LoopBatches(model, 8, answered.observe)
        batches.submit(rows(1), answered.by("a")).cancel()
        batches.submit(rows(2), answered.by("b"))
        await asyncio.sleep(0)
        assert model.calls == [[2]]
        assert answered.answers == {"b": [4]}

    asyncio.run(run())


def test_requests_that_arrive_while_threads_are_busy_share_a_call() -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = await busy_batches(model, answered, 4)
        for number in range(1, 7):
            batches.submit(rows(number), answered.by(str(number)))
        model.gate.set()
        await answered.until(7)
        assert model.calls == [[0], [1, 2, 3, 4], [5, 6]]
        assert answered.answers == {"first": [0], **{str(number): [2 * number] for number in range(1, 7)}}
        assert sorted(answered.observed) == [1, 2, 4]

    asyncio.run(run())


def test_requests_that_do_not_fit_go_to_the_next_batch() -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = await busy_batches(model, answered, 4)
        for name, some in {"a": rows(1, 2, 3), "b": rows(4, 5, 6), "c": rows(7, 8)}.items():
            batches.submit(some, answered.by(name))
        model.gate.set()
        await answered.until(4)
        assert model.calls == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]

    asyncio.run(run())


def test_a_failing_request_in_a_thread_does_not_fail_the_others() -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = await busy_batches(model, answered, 8)
        for name, number in {"a": 1, "b": -1, "c": 2}.items():
            batches.submit(rows(number), answered.by(name))
        model.gate.set()
        await answered.until(4)
        assert answered.answers == {"first": [0], "a": [2], "b": "ValueError('negative')", "c": [4]}

    asyncio.run(run())


def test_a_timed_out_request_does_not_delay_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.prediction.runner._OCCUPIED_SECONDS", 0.0)

    async def run() -> None:
        model, answered = Model(), Answered()
        model.gate.clear()
        runner = Runner(1)
        late = ThreadBatches(model, 8, answered.observe, runner, 0.01)
        batches = ThreadBatches(model, 8, answered.observe, runner, LONG)
        late.submit(rows(0), answered.by("begun"))
        assert await asyncio.to_thread(model.begun.wait, LONG)
        late.submit(rows(1), answered.by("waiting"))
        batches.submit(rows(2), answered.by("other"))
        await answered.until(2)
        assert answered.answers == {"begun": "TimeoutError()", "waiting": "TimeoutError()"}
        assert runner.is_occupied
        model.gate.set()
        await answered.until(3)
        assert answered.answers["other"] == [4]
        assert model.calls == [[0], [2]]
        assert not runner.is_occupied

    asyncio.run(run())


def test_a_batch_continues_until_all_its_requests_are_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.prediction.runner._OCCUPIED_SECONDS", 0.0)

    async def run() -> None:
        model, answered = Model(), Answered()
        model.gate.clear()
        runner = Runner(1)
        batches = ThreadBatches(model, 8, answered.observe, runner, LONG)
        batches.submit(rows(0), answered.by("first"))
        assert await asyncio.to_thread(model.begun.wait, LONG)
        model.begun.clear()
        leaves, stays = batches.submit(rows(1), answered.by("leaves")), batches.submit(rows(2), answered.by("stays"))
        model.gate.set()
        await answered.until(1)
        model.gate.clear()
        assert await asyncio.to_thread(model.begun.wait, LONG)
        if model.calls[-1] == [1, 2]:  # otherwise the batch was answered while the gate was open
            leaves.cancel()
            assert not runner.is_occupied
        model.gate.set()
        await answered.until(2)
        stays.cancel()
        assert answered.answers["stays"] == [4]

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 200])
def test_every_request_gets_its_own_answer_from_many_threads(count: int) -> None:
    async def run() -> None:
        model, answered = Model(), Answered()
        batches = ThreadBatches(model, 8, answered.observe, Runner(4), LONG)
        for number in range(count):
            batches.submit(rows(number), answered.by(str(number)))
            if number % 7 == 0:
                await asyncio.sleep(0)
        await answered.until(count)
        assert answered.answers == {str(number): [2 * number] for number in range(count)}
        assert sum(answered.observed) == count

    asyncio.run(run())
