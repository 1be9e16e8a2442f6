"""Metrics of what the model predicts: each class, and the probability of the most probable one."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

MAX_CLASSES = 100
OTHER = "other"

_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
_BOUNDS_AND_INFINITY = np.array([*_BOUNDS, np.inf])
_PROBABLE = 0.5
_FEW_NUMBERS = 256  # for more, NumPy is faster
_FEW_CLASSES = 8  # for more, argmax is faster than comparing columns
# NumPy gives other threads a turn during each operation, which costs more than counting a thousand rows.
_MAX_COLLECTED_BYTES = 128 * 1024


class Predictions(Collector):
    """Counts predictions by class, and their probabilities; for values, their number and sum. Thread-safe.

    Args:
        sha256: identity of the model, a label of all series: a switch to another model begins new ones.
        names: name of each class or label, by index; empty for a model that predicts values.
        is_multilabel: whether each label of at least 50 % counts, instead of the most probable class.
    """

    def __init__(self, sha256: str, names: Sequence[str], *, is_multilabel: bool = False) -> None:
        self._sha256 = sha256
        self._names = names
        self._is_multilabel = is_multilabel
        # Adding to a list is faster for one row, and adding to an array for many.
        self._counts = [0] * len(names)
        self._counts_of_many = np.zeros(len(names), np.int64)
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._below_of_many = np.zeros(len(_BOUNDS) + 1, np.int64)  # probabilities of at most each bound
        self._values = 0
        self._sum = 0.0
        self._collected: list[bytes] = []  # predictions to count together
        self._collected_bytes = 0
        self._dtype = np.dtype(np.float32)
        self._lock = threading.Lock()

    def count(self, predictions: npt.NDArray[Any]) -> None:
        """Count predictions, one per row, all finite."""
        is_few = predictions.size <= _FEW_NUMBERS
        if not self._names:
            total = sum(predictions.ravel().tolist()) if is_few else float(predictions.sum(dtype=np.float64))
            with self._lock:
                self._values += predictions.size
                self._sum += total
        elif is_few:
            self._count_few(predictions.tolist())
        elif predictions.nbytes > _MAX_COLLECTED_BYTES:
            self._count_many(predictions)
        else:
            self._collect(predictions)

    def _count_few(self, rows: list[list[float]]) -> None:
        with self._lock:
            for row in rows:
                most = max(row)
                self._sum += most
                self._buckets[bisect_left(_BOUNDS, most)] += 1
                if not self._is_multilabel:
                    self._counts[row.index(most)] += 1
                    continue
                for index, probability in enumerate(row):
                    self._counts[index] += probability >= _PROBABLE

    def _collect(self, predictions: npt.NDArray[Any]) -> None:
        with self._lock:
            self._dtype = predictions.dtype
            self._collected.append(predictions.tobytes())
            self._collected_bytes += predictions.nbytes
            is_full = self._collected_bytes >= _MAX_COLLECTED_BYTES
        if is_full:
            self._count_collected()

    def _count_collected(self) -> None:
        with self._lock:
            collected, self._collected, self._collected_bytes = self._collected, [], 0
        if collected:
            self._count_many(np.frombuffer(b"".join(collected), self._dtype).reshape(-1, len(self._names)))

    def _count_many(self, predictions: npt.NDArray[Any]) -> None:
        counts, most = self._summarise(predictions)
        total = float(most.sum())
        most.sort()  # a search for each bound is faster than one for each probability
        below = most.searchsorted(_BOUNDS_AND_INFINITY, side="right")
        with self._lock:
            self._counts_of_many += counts
            self._below_of_many += below
            self._sum += total

    def _summarise(self, predictions: npt.NDArray[Any]) -> tuple[Any, npt.NDArray[Any]]:
        """Return how often each class or label is predicted, and the highest probability of each row."""
        rows, classes = predictions.shape
        if self._is_multilabel:
            return np.count_nonzero(predictions >= _PROBABLE, axis=0), predictions.max(axis=1)
        if classes <= _FEW_CLASSES:  # comparing whole columns is faster than argmax
            columns = np.ascontiguousarray(predictions.T)
            most = columns.max(axis=0)
            counts = [np.count_nonzero(column == most) for column in columns]
            if sum(counts) == rows:  # no row has two classes that are equally probable
                return counts, most
        best = predictions.argmax(axis=1)
        return np.bincount(best, minlength=classes), predictions.ravel()[np.arange(0, rows * classes, classes) + best]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics: every class from the start, those after the first 100 as "other"."""
        labels = ("sha256",)
        if not self._names:
            values = SummaryMetricFamily("model_server_prediction_value", "Values that were predicted", labels=labels)
            values.add_metric((self._sha256,), self._values, self._sum)
            yield values
            return
        self._count_collected()
        counts: Counter[str] = Counter()
        for index, count in enumerate((self._counts + self._counts_of_many).tolist()):
            counts[self._names[index] if index < MAX_CLASSES else OTHER] += count
        total = CounterMetricFamily(
            "model_server_predictions", "Rows for which each class was predicted", labels=("class", *labels)
        )
        for name, count in counts.items():
            total.add_metric((name, self._sha256), count)
        yield total
        probability = HistogramMetricFamily(
            "model_server_prediction_probability", "Probability of the most probable class", labels=labels
        )
        below = np.array([*accumulate(self._buckets)]) + self._below_of_many
        bounds = (*map(str, _BOUNDS), "+Inf")
        probability.add_metric((self._sha256,), list(zip(bounds, below.tolist(), strict=True)), self._sum)
        yield probability
