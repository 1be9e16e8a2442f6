"""Predictions counted by class, with their probabilities, for few rows in Python and for many in NumPy."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from model_server.observability.predictions import Predictions

SHA256 = "0" * 64


def values(predictions: Predictions) -> Mapping[tuple[str, str], float]:
    """Return the samples by name, without the common prefix, and by class or bound."""
    found = {}
    for sample in (sample for family in predictions.collect() for sample in family.samples):
        labels = dict(sample.labels)
        assert labels.pop("sha256") == SHA256
        found[sample.name.removeprefix("model_server_prediction"), "".join(labels.values())] = sample.value
    return found


def names(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


@pytest.mark.parametrize("classes", [2, 3, 8, 9, 150])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_count_the_same_alone_and_together(classes: int, dtype: npt.DTypeLike) -> None:
    rows = np.random.default_rng(classes).dirichlet([0.2] * classes, 400).astype(dtype)
    rows[:100] = rows[:100].round(1)  # equal probabilities, and probabilities at the bounds
    alone, together = (Predictions(SHA256, names(classes)) for _ in range(2))
    for row in rows:
        alone.count(row[None])
    together.count(rows)
    counts = Counter(f"class {index}" if index < 100 else "other" for index in rows.argmax(axis=1))
    shown = {name: value for (metric, name), value in values(together).items() if metric == "s_total"}
    assert {name: value for name, value in shown.items() if value} == counts
    assert len(shown) == min(classes, 101)
    sums = [dict(values(predictions)) for predictions in (alone, together)]
    assert sums[0].pop(("_probability_sum", "")) == pytest.approx(sums[1].pop(("_probability_sum", "")), 1e-6)
    assert sums[0] == sums[1]


def test_a_probability_at_a_bound_is_in_its_bucket() -> None:
    predictions = Predictions(SHA256, names(2))
    for probability in (0.5, 0.8, 0.95, 1.0):
        predictions.count(np.array([[probability, 1 - probability]]))
    found = values(predictions)
    buckets = [
        found["_probability_bucket", bound] for bound in ("0.4", "0.5", "0.7", "0.8", "0.9", "0.95", "1.0", "+Inf")
    ]
    assert buckets == [0, 1, 1, 2, 2, 3, 4, 4]
    assert found["_probability_count", ""] == 4
    assert found["_probability_sum", ""] == 3.25


@pytest.mark.parametrize("rows", [1, 200])
def test_each_probable_label_counts(rows: int) -> None:
    predictions = Predictions(SHA256, ["a", "b", "c"], is_multilabel=True)
    predictions.count(np.array([[0.5, 0.9, 0.4]] * rows))
    predictions.count(np.array([[0.1, 0.2, 0.3]] * rows))
    found = values(predictions)
    assert [found["s_total", name] for name in "abc"] == [rows, rows, 0]
    assert found["_probability_count", ""] == 2 * rows
    assert found["_probability_sum", ""] == pytest.approx(1.2 * rows)


@pytest.mark.parametrize("shape", [(1,), (3, 2), (1000,)])
def test_values_are_summed(shape: tuple[int, ...]) -> None:
    predictions = Predictions(SHA256, ())
    predictions.count(np.full(shape, -1.5, np.float32))
    count = np.prod(shape)
    assert values(predictions) == {("_value_count", ""): count, ("_value_sum", ""): -1.5 * count}


def test_classes_with_one_name_count_together() -> None:
    predictions = Predictions(SHA256, ["other", *names(99), "last", "same", "same"])
    for index in (0, 101, 102):
        predictions.count(np.eye(103)[[index]])
    assert values(predictions)["s_total", "other"] == 3


def test_threads_lose_nothing() -> None:
    predictions = Predictions(SHA256, names(3))
    few, many = np.eye(3)[[0]], np.eye(3)[np.arange(99) % 3]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(500):
            threads.submit(predictions.count, few)
            threads.submit(predictions.count, many)
    assert values(predictions)["_probability_count", ""] == 500 * 100
