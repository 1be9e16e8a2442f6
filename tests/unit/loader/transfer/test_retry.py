"""Retries stop at the deadline with an error that gives the reason."""

import io
from itertools import pairwise

import pytest

from loader.errors import IntegrityError, LoadError, UnreachableError
from loader.progress import Progress
from loader.transfer.retry import Backoff, TransientError
from loader.watchdog import Deadline


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The recorded delays, without actual sleeping."""
    made: list[float] = []
    monkeypatch.setattr("loader.transfer.retry.time.sleep", made.append)
    return made


def backoff(seconds: float) -> Backoff:
    return Backoff("cannot read gs://b/o", Deadline(seconds), Progress(io.StringIO()))


def test_delays_grow_up_to_a_limit(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.transfer.retry.random.uniform", lambda _, longest: longest)
    tries = backoff(1000)
    for _ in range(8):
        tries.pause(TransientError("server-failed", "no"))
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 8, 8]
    tries.reset()
    tries.pause(TransientError("server-failed", "no"))
    assert pauses[-1] == 0.25


def test_delays_are_random(pauses: list[float]) -> None:
    tries = backoff(1000)
    for _ in range(20):
        tries.pause(TransientError("server-failed", "no"))
    assert all(one != other for one, other in pairwise(pauses))


def test_a_delay_is_at_least_the_one_that_the_server_requests(pauses: list[float]) -> None:
    backoff(1000).pause(TransientError("server-failed", "no", wait=60))
    assert pauses == [60]


def test_no_delay_extends_past_the_deadline(pauses: list[float]) -> None:
    with pytest.raises(
        UnreachableError, match=r"cannot read gs://b/o: no, and the server requests a delay of 60 s .*=10 used"
    ):
        backoff(10).pause(TransientError("server-failed", "no", wait=60))
    assert pauses == []


def test_wrong_bytes_are_fetched_three_times(pauses: list[float]) -> None:
    tries = backoff(1000)
    setback = TransientError("server-failed", "wrong", kind=IntegrityError)
    tries.pause(setback)
    tries.pause(setback)
    with pytest.raises(LoadError, match="3 times in a row") as failed:
        tries.pause(setback)
    assert failed.type is IntegrityError
    assert len(pauses) == 2
