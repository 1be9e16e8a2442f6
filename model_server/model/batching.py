"""Whether rows of several requests are answered together: decided from what the model does when it is loaded."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_server.model.rows import Array, Columns, Rows, concatenate, repeat

Clock = Callable[[], float]
Mode = Literal["auto", "on", "off"]

_MAX_ROWS = 128
_VARIED_ROWS = 64
_MIN_GAIN = 1.3
_MAX_SECONDS = 0.01  # a longer batch would delay its first row too much
_MAX_DELAY = 4  # unless one row alone takes long: this many times as long
_TRIES = 3
_TRIAL_SECONDS = 0.5


@dataclass(frozen=True)
class Batching:
    """How many rows of several requests are answered together.

    Attributes:
        max_rows: the most rows of one inference; 1 if each request is answered alone.
        gain: how many times cheaper a row is in the largest batch that was tried.
        code: why, in one word.
        reason: why, as a sentence without its full stop.
    """

    max_rows: int
    gain: float
    code: str
    reason: str

    @property
    def is_on(self) -> bool:
        """Whether requests share inferences."""
        return self.max_rows > 1


def decide_batching(
    answer: Callable[[Rows], Array], sample: Rows, mode: Mode, *, is_free: bool, clock: Clock = time.perf_counter
) -> Batching:
    """Return how many rows of several requests the model should answer together.

    Two things are measured: what several rows gain over one, and whether varied rows get the same answers, bit for
    bit, alone and in batches of each size. No size is used that was not tried.

    Args:
        answer: the model: takes rows and returns one answer per row.
        sample: a row that it has answered.
        mode: "auto" decides by both, "on" only by the gain.
        is_free: whether rows may differ in length, so that they do not fit into one array.
        clock: what measures the seconds of an inference.
    """
    if mode == "off":
        return Batching(1, 1.0, "off", "BATCHING is off")
    if is_free:
        return Batching(1, 1.0, "free-length", "rows may differ in length")
    try:
        return _try_together(answer, sample, mode, clock)
    except Exception as error:  # noqa: BLE001 (memory may be short; ONNX Runtime's errors have no other base in common)
        return Batching(1, 1.0, "failed", f"the model failed with several rows: {type(error).__name__}")


def _try_together(answer: Callable[[Rows], Array], sample: Rows, mode: Mode, clock: Clock) -> Batching:
    deadline = clock() + _TRIAL_SECONDS
    size, gain = _measure(answer, sample, deadline, clock)
    if size == 1 or gain < _MIN_GAIN:
        return Batching(1, gain, "no-gain", "several rows at once cost as much as one after the other")
    if mode == "on":
        return Batching(size, gain, "on", "BATCHING is on")
    same = _count_same(answer, sample, size, deadline, clock)
    if same > 1:
        return Batching(same, gain, "exact", f"a row gets the same answer, bit for bit, alone and among up to {same}")
    if clock() > deadline:
        return Batching(1, gain, "too-slow", "the model is too slow to try whether rows get the same answers together")
    return Batching(
        1,
        gain,
        "inexact",
        "the last digits of an answer depend on the other rows; set BATCHING=on if that does not matter",
    )


def _measure(answer: Callable[[Rows], Array], sample: Rows, deadline: float, clock: Clock) -> tuple[int, float]:
    """Return the size, a power of two, up to which each doubling made a row cheaper, and how many times cheaper."""
    one = best = _seconds(answer, sample, clock)
    size = 1
    while size < _MAX_ROWS and clock() < deadline:
        seconds = _seconds(answer, repeat(sample, 2 * size), clock)
        if seconds / (2 * size) > best / size or seconds > max(_MAX_SECONDS, _MAX_DELAY * one):
            break
        size, best = 2 * size, seconds
    return size, one * size / best


def _seconds(answer: Callable[[Rows], Array], rows: Rows, clock: Clock) -> float:
    seconds = []
    for _ in range(_TRIES):
        began = clock()
        answer(rows)
        seconds.append(clock() - began)
    return min(seconds)


def _count_same(answer: Callable[[Rows], Array], sample: Rows, size: int, deadline: float, clock: Clock) -> int:
    """Return the largest number of rows, up to `size`, in which and below which each row got the answer of its own."""
    rows, answers = _varied(answer, sample)
    for count in range(2, size + 1):
        for start in range(0, _VARIED_ROWS, count):
            indices = np.arange(start, start + count) % _VARIED_ROWS
            is_same = answer(rows[indices]).tobytes() == answers[indices].tobytes()
            if not is_same or clock() > deadline:
                return count - 1
    return size


def _varied(answer: Callable[[Rows], Array], sample: Rows) -> tuple[Rows, Array]:
    """Return rows around the sample and their answers; it takes the place of rows that have no answer."""
    varied = _vary(repeat(sample, _VARIED_ROWS))
    rows: list[Rows] = []
    answers: list[Array] = []
    own = answer(sample)
    for index in range(_VARIED_ROWS):
        row = varied[index : index + 1]
        try:
            answers.append(answer(row))
        except Exception:  # noqa: BLE001 (a made-up row need not be one that the model takes)
            row = sample
            answers.append(own)
        rows.append(row)
    return concatenate(rows), np.concatenate(answers)


def _vary(rows: Rows) -> Rows:
    random = np.random.default_rng(0)
    if isinstance(rows, Columns):
        return Columns({name: _vary_array(array, random) for name, array in rows.arrays.items()})
    return _vary_array(rows, random)


def _vary_array(array: Array, random: np.random.Generator) -> Array:
    match array.dtype.kind:
        case "f":
            spread = np.maximum(np.abs(array), 1).astype(np.float64)
            return (array + random.normal(scale=spread)).astype(array.dtype)
        case "i" | "u":
            most = np.minimum(np.iinfo(array.dtype).max, np.abs(array.astype(np.float64)) + 2)
            whole: Array = random.integers(0, most.astype(np.int64), endpoint=True).astype(array.dtype)
            return whole
        case "b":
            return random.integers(0, 1, array.shape, endpoint=True).astype(np.bool_)
        case _:  # text: its own words, in other rows
            return array
