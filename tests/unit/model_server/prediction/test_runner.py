"""Work runs in threads in order, has a timeout, and is dropped when its result is no longer needed."""

import asyncio
import threading
from typing import Any

import pytest

from model_server.model.session import StoppedError, current_stop
from model_server.prediction.runner import Runner

LONG = 10.0


class Results:
    """Delivered results.

    Attributes:
        delivered: result and error of each job by name.
    """

    def __init__(self) -> None:
        self.delivered: dict[str, tuple[Any, BaseException | None]] = {}

    def of(self, name: str) -> Any:
        """Return a callback that stores the result of a job."""
        return lambda result, error: self.delivered.update({name: (result, error)})

    async def until(self, count: int) -> None:
        """Wait until `count` jobs have delivered."""
        async with asyncio.timeout(LONG):
            while len(self.delivered) < count:  # noqa: ASYNC110 (polling is enough here)
                await asyncio.sleep(0.001)


def test_results_and_errors_are_delivered_on_the_loop() -> None:
    async def run() -> None:
        runner, results = Runner(2), Results()
        runner.submit(lambda: threading.current_thread().name, results.of("name"), LONG)
        runner.submit(lambda: 1 / 0, results.of("error"), LONG)
        await results.until(2)
        assert results.delivered["name"][0].startswith("inference")
        assert isinstance(results.delivered["error"][1], ZeroDivisionError)

    asyncio.run(run())


def test_timed_out_work_is_stopped_if_started_and_dropped_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        runner, results = Runner(1), Results()
        gate = threading.Event()
        ran: list[str] = []

        def work(name: str) -> None:
            ran.append(name)
            gate.wait(LONG)
            stop = current_stop.get()
            assert stop
            try:
                stop.options()
            except StoppedError:
                ran.append(f"{name} was stopped")

        runner.submit(lambda: work("late"), results.of("late"), 0.01)
        runner.submit(lambda: work("waiting"), results.of("waiting"), 0.02)
        await results.until(2)
        assert {type(error) for _, error in results.delivered.values()} == {TimeoutError}
        assert not runner.is_occupied  # the inference may stop at its next operator
        monkeypatch.setattr("model_server.prediction.runner._OCCUPIED_SECONDS", 0.0)
        assert runner.is_occupied
        assert not runner.is_stuck
        monkeypatch.setattr("model_server.prediction.runner._STUCK_SECONDS", 0.0)
        assert runner.is_stuck
        gate.set()
        runner.submit(lambda: work("next"), results.of("next"), LONG)
        await results.until(3)
        assert ran == ["late", "late was stopped", "next"]
        assert not runner.is_occupied

    asyncio.run(run())


def test_a_cancelled_job_delivers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.prediction.runner._OCCUPIED_SECONDS", 0.0)

    async def run() -> None:
        runner, results = Runner(1), Results()
        gate = threading.Event()
        begun = threading.Event()

        def work() -> None:
            begun.set()
            gate.wait(LONG)

        running = runner.submit(work, results.of("running"), LONG)
        assert begun.wait(LONG)
        waiting = runner.submit(lambda: gate.wait(LONG), results.of("waiting"), LONG)
        for job in (running, waiting, running, waiting):
            job.cancel()
        assert runner.is_occupied
        gate.set()
        runner.submit(lambda: "last", results.of("last"), LONG)
        await results.until(1)
        assert results.delivered == {"last": ("last", None)}
        assert not runner.is_occupied

    asyncio.run(run())
