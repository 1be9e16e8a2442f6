"""The batching decision depends on the gain and on whether answers stay bit-for-bit the same."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from model_server.model.batching import Batching, Mode, Sample, decide_batching
from model_server.model.rows import Array, Columns, Rows

SAMPLE = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)


class Clock:
    """A clock that only inferences advance.

    Attributes:
        now: current time in seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def decide(
    answer: Callable[[Rows], Array],
    mode: Mode = "auto",
    seconds: Callable[[int], float] = lambda _rows: 0.0001,
    sample: Rows = SAMPLE,
    categories: Mapping[str, Sequence[object]] | None = None,
) -> Batching:
    """Return the decision for a model with the given duration in seconds for each number of rows."""
    clock = Clock()

    def timed(rows: Rows) -> Array:
        clock.now += seconds(len(rows))
        return answer(rows)

    return decide_batching(timed, Sample(sample, categories or {}, is_dynamic=False), mode, clock=clock)


def doubled(rows: Rows) -> Array:
    assert isinstance(rows, np.ndarray)
    return rows * 2


def test_requests_are_batched_if_faster_and_exact() -> None:
    batching = decide(doubled)
    assert batching.is_on
    assert (batching.code, batching.max_rows, round(batching.gain)) == ("exact", 128, 128)


@pytest.mark.parametrize(("mode", "code", "is_on"), [("auto", "inexact", False), ("on", "on", True)])
def test_inexact_batches_require_the_setting(mode: Mode, code: str, *, is_on: bool) -> None:
    batching = decide(lambda rows: doubled(rows) + (len(rows) > 1) * np.float32(1e-6), mode)
    assert (batching.code, batching.is_on) == (code, is_on)


def test_batches_are_limited_to_exact_sizes() -> None:
    assert decide(lambda rows: doubled(rows) + (len(rows) > 5) * np.float32(1e-6)).max_rows == 5


def test_a_single_inexact_position_is_found() -> None:
    def answer(rows: Rows) -> Array:
        answers = doubled(rows)
        if len(answers) > 6:
            answers[6] += np.float32(1e-6)
        return answers

    assert decide(answer).max_rows == 6


def test_a_model_without_a_gain_is_not_batched() -> None:
    assert decide(doubled, "on", lambda rows: 0.0001 * rows).code == "no-gain"


def test_batches_stay_below_the_size_at_which_rows_cost_more() -> None:
    assert decide(doubled, seconds=lambda rows: 0.0001 if rows <= 16 else 0.0001 * rows).max_rows == 16


def test_a_batch_takes_at_most_ten_milliseconds() -> None:
    assert decide(doubled, "on", lambda rows: 0.0005 + 0.0002 * rows).max_rows == 32


def test_a_model_too_slow_to_compare_is_not_batched() -> None:
    batching = decide(doubled, seconds=lambda _rows: 0.05)
    assert (batching.code, batching.max_rows) == ("too-slow", 1)


def test_a_model_that_fails_with_several_rows_is_not_batched() -> None:
    def answer(rows: Rows) -> Array:
        if len(rows) > 1:
            raise RuntimeError("no memory")
        return doubled(rows)

    assert decide(answer).code == "failed"


@pytest.mark.parametrize(("mode", "is_dynamic", "code"), [("off", False, "off"), ("on", True, "variable-length")])
def test_batching_is_not_tried_if_off_or_with_dynamic_lengths(mode: Mode, code: str, *, is_dynamic: bool) -> None:
    batching = decide_batching(lambda _rows: pytest.fail("asked"), Sample(SAMPLE, {}, is_dynamic=is_dynamic), mode)
    assert (batching.code, batching.max_rows) == (code, 1)


def test_a_few_random_rows_that_the_model_refuses_are_replaced() -> None:
    def answer(rows: Rows) -> Array:
        if (np.asarray(rows)[:, 0] > SAMPLE[0, 0] + 3).any():
            raise ValueError("not such a row")
        return doubled(rows)

    assert decide(answer).code == "exact"


def test_a_model_that_refuses_most_random_rows_is_not_batched() -> None:
    def answer(rows: Rows) -> Array:
        if (np.asarray(rows) != SAMPLE).any():
            raise ValueError("not such a row")
        return doubled(rows)

    assert decide(answer).code == "unvaried"


def test_text_is_varied_by_its_categories_only() -> None:
    def answer(rows: Rows) -> Array:
        assert isinstance(rows, np.ndarray)
        return np.array([[len(text)] for [text] in rows.tolist()], np.float32)

    sample = np.array([["Bern"]], object)
    assert decide(answer, sample=sample).code == "unvaried"
    assert decide(answer, "on", sample=sample).is_on
    assert decide(answer, sample=sample, categories={"city": ["Bern", "Basel"]}).code == "exact"


def test_all_input_types_are_varied() -> None:
    seen: list[Columns] = []

    def answer(rows: Rows) -> Array:
        assert isinstance(rows, Columns)
        seen.append(rows)
        return rows["age"] * 2

    sample = Columns(
        {
            "age": np.array([[31.5]], np.float64),
            "visits": np.array([[3]], np.uint8),
            "is_new": np.array([[True]]),
            "city": np.array([["Bern"]], object),
        }
    )
    assert decide(answer, sample=sample, categories={"city": ["Bern", "Basel"]}).code == "exact"
    last = seen[-1]
    assert all(len(set(last[name].ravel().tolist())) > 1 for name in ("age", "visits", "is_new", "city"))
    assert {name: array.dtype for name, array in last.arrays.items()} == {
        name: array.dtype for name, array in sample.arrays.items()
    }
