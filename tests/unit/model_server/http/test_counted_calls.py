"""The predictions of a call are counted once, however often the method calls the model."""

from typing import Any

import numpy as np
import pytest

from model_server.http.methods import CountedCalls
from model_server.model.model import current_predictions
from model_server.observability.predictions import Predictions

ROWS = np.zeros((5, 4), np.float32)
FIRST, SECOND = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)


class Asking:
    """Calls of a method that gets these predictions from the model."""

    is_async = False
    may_batch = True

    def __init__(self, *predictions: Any) -> None:
        self._predictions = predictions

    def one(self, rows: Any, _ask: Any) -> Any:
        collected = current_predictions.get()
        assert collected is not None
        collected.extend(self._predictions)
        return rows


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        ([FIRST.repeat(5, 0), SECOND.repeat(5, 0)], [0, 5]),
        ([FIRST.repeat(3, 0), SECOND.repeat(2, 0)], [3, 2]),
        ([], [0, 0]),
    ],
    ids=["the same rows twice", "parts", "never"],
)
def test_rows_are_counted_once(asked: list[Any], counted: list[int]) -> None:
    predictions = Predictions("digest", ["a", "b"])
    calls: Any = Asking(*asked)
    CountedCalls(calls, predictions).one(ROWS, None)
    assert current_predictions.get() is None
    total = next(iter(predictions.collect()))
    assert [sample.value for sample in total.samples] == counted
