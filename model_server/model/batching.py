"""Decides, from measurements when the model is loaded, whether several requests share one inference."""

import time
from collections.abc import Callable, Mapping, Sequence
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
_MAX_DELAY = 4  # times the duration of one row: a batch of slow rows may take longer than _MAX_SECONDS
_TRIES = 3
_TRIAL_SECONDS = 0.5


@dataclass(frozen=True)
class Sample:
    """A row to try a model with, and how to vary it.

    Attributes:
        row: a row that the model can answer.
        categories: the values that the model's encoders know, by input; text inputs without categories cannot be
        varied.
        is_dynamic: whether rows may differ in length, so that they do not fit into one array.
    """

    row: Rows
    categories: Mapping[str, Sequence[object]]
    is_dynamic: bool


@dataclass(frozen=True)
class Batching:
    """The batching decision for a model.

    Attributes:
        max_rows: maximum number of rows of one inference; 1 if each request is answered alone.
        gain: cost of a row alone divided by its cost in the largest batch that helped.
        code: the reason as one word.
        reason: the reason as a sentence without its full stop.
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
    answer: Callable[[Rows], Array], sample: Sample, mode: Mode, *, clock: Clock = time.perf_counter
) -> Batching:
    """Return how many rows of several requests the model should answer together.

    Two things are measured: how much cheaper a row is in a batch, and whether varied rows get bit-for-bit the same
    answers alone and in batches of each size. Only measured sizes are used.

    Args:
        answer: the model; takes rows and returns one answer per row.
        sample: a row that the model can answer.
        mode: "auto" requires a gain and identical answers, "on" requires only a gain.
        clock: returns the current time in seconds.
    """
    if mode == "off":
        return Batching(1, 1.0, "off", "BATCHING is off")
    if sample.is_dynamic:
        return Batching(1, 1.0, "variable-length", "rows may differ in length")
    try:
        return _try_batching(answer, sample, mode, clock)
    except Exception as error:  # noqa: BLE001 (memory may not suffice; ONNX Runtime's errors share no other base class)
        return Batching(1, 1.0, "failed", f"the model failed with several rows: {type(error).__name__}")


def _try_batching(answer: Callable[[Rows], Array], sample: Sample, mode: Mode, clock: Clock) -> Batching:
    deadline = clock() + _TRIAL_SECONDS
    size, gain = _measure(answer, sample.row, deadline, clock)
    if size == 1 or gain < _MIN_GAIN:
        return Batching(1, gain, "no-gain", "a batch costs as much as its rows one after the other")
    if mode == "on":
        return Batching(size, gain, "on", "BATCHING is on")
    varied = _varied_rows(answer, sample.row, sample.categories)
    if varied is None:
        return Batching(1, gain, "unvaried", "the sample cannot be varied to compare batched answers with single ones")
    same = _max_exact_rows(answer, varied, size, deadline, clock)
    if same > 1:
        reason = f"a row gets bit-for-bit the same answer alone and in batches of up to {same} rows"
        return Batching(same, gain, "exact", reason)
    if clock() > deadline:
        reason = "the model is too slow to compare the answers of batches with those of single rows"
        return Batching(1, gain, "too-slow", reason)
    return Batching(
        1,
        gain,
        "inexact",
        "the last digits of an answer depend on the other rows of the batch; set BATCHING=on if that does not matter",
    )


def _measure(answer: Callable[[Rows], Array], sample: Rows, deadline: float, clock: Clock) -> tuple[int, float]:
    """Return the power of two up to which each doubling of the batch made a row cheaper, and the gain at that size."""
    one = best = _best_seconds(answer, sample, clock)
    size = 1
    while size < _MAX_ROWS and clock() < deadline:
        seconds = _best_seconds(answer, repeat(sample, 2 * size), clock)
        if seconds / (2 * size) > best / size or seconds > max(_MAX_SECONDS, _MAX_DELAY * one):
            break
        size, best = 2 * size, seconds
    return size, one * size / best


def _best_seconds(answer: Callable[[Rows], Array], rows: Rows, clock: Clock) -> float:
    seconds = []
    for _ in range(_TRIES):
        began = clock()
        answer(rows)
        seconds.append(clock() - began)
    return min(seconds)


def _max_exact_rows(
    answer: Callable[[Rows], Array], varied: tuple[Rows, Array], size: int, deadline: float, clock: Clock
) -> int:
    """Return the largest batch size, up to `size`, at and below which each row gets the same answer as alone."""
    rows, answers = varied
    for count in range(2, size + 1):
        for start in range(0, _VARIED_ROWS, count):
            indices = np.arange(start, start + count) % _VARIED_ROWS
            is_same = answer(rows[indices]).tobytes() == answers[indices].tobytes()
            if not is_same or clock() > deadline:
                return count - 1
    return size


def _varied_rows(
    answer: Callable[[Rows], Array], sample: Rows, categories: Mapping[str, Sequence[object]]
) -> tuple[Rows, Array] | None:
    """Return random variations of the sample and their answers, or None if the model answers few of them.

    The sample replaces variations that the model refuses.
    """
    varied = _vary(repeat(sample, _VARIED_ROWS), categories)
    if varied is None:
        return None
    rows: list[Rows] = []
    answers: list[Array] = []
    own = answer(sample)
    refused = 0
    for index in range(_VARIED_ROWS):
        row = varied[index : index + 1]
        try:
            answers.append(answer(row))
        except Exception:  # noqa: BLE001 (the model may refuse a random row)
            refused += 1
            row = sample
            answers.append(own)
        rows.append(row)
    return None if refused > _VARIED_ROWS // 2 else (concatenate(rows), np.concatenate(answers))


def _vary(rows: Rows, categories: Mapping[str, Sequence[object]]) -> Rows | None:
    """Return the rows with random values, or None if an input of text has no categories."""
    random = np.random.default_rng(0)
    if not isinstance(rows, Columns):
        return _vary_array(rows, next(iter(categories.values()), ()), random)
    arrays = {name: _vary_array(array, categories.get(name, ()), random) for name, array in rows.arrays.items()}
    found = {name: array for name, array in arrays.items() if array is not None}
    return Columns(found) if len(found) == len(arrays) else None


def _vary_array(array: Array, categories: Sequence[object], random: np.random.Generator) -> Array | None:
    if categories:
        chosen: Array = random.choice(np.array(categories, array.dtype), array.shape)
        return chosen
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
        case _:
            return None
