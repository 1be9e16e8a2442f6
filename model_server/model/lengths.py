"""Measures how long the rows of a model with dynamic dimensions may be: an inference must take at most a second."""

import sys
import time

import numpy as np

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.predictor import Predictor
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array, Columns, Rows

if sys.platform == "linux":
    import resource

_MAX_SECONDS = 1.0
_MAX_BYTES = 256 << 20  # growth of the peak memory when the length doubles
_MAX_NUMBERS = 1 << 22  # per row; the most that an 8 MiB body holds


def measure_max_row_length(predictor: Predictor) -> int | None:
    """Return the length up to which an inference on one row takes at most a second; found by doubling the sample.

    The result is at least the length of the sample. None means that no limit is needed: the model itself refuses rows
    that are longer than the sample.
    """
    longest = shortest = max(_dynamic_lengths(predictor.spec, predictor.sample))
    refused = 0
    while _count_numbers(predictor, 2 * longest) <= _MAX_NUMBERS:
        peak = _peak_bytes()
        seconds = _time_inference(predictor, 2 * longest)
        if seconds is None:
            refused = 2 * longest
            break
        if seconds > _MAX_SECONDS:
            return longest
        longest *= 2
        if seconds > _MAX_SECONDS / 2 or _peak_bytes() - peak > _MAX_BYTES:
            return longest
    if refused and longest == shortest:
        return None
    while refused - longest > 1:  # the model has a fixed maximum, such as its number of position embeddings
        middle = (longest + refused) // 2
        seconds = _time_inference(predictor, middle)
        if seconds is None:
            refused = middle
        elif seconds > _MAX_SECONDS:
            return longest
        else:
            longest = middle
    return longest


def _specs(spec: RowSpec | ColumnsSpec, rows: Rows) -> list[tuple[str, RowSpec, Array]]:
    if isinstance(rows, Columns):
        assert isinstance(spec, ColumnsSpec)  # noqa: S101 (for the type checker)
        return [(name, value, rows[name]) for name, value in spec.inputs.items()]
    assert isinstance(spec, RowSpec)  # noqa: S101 (for the type checker)
    return [("", spec, rows)]


def _dynamic_lengths(spec: RowSpec | ColumnsSpec, rows: Rows) -> list[int]:
    """Return the lengths of the dynamic dimensions of these rows."""
    return [
        found
        for _, value, array in _specs(spec, rows)
        for found, length in zip(array.shape[1:], value.row_shape, strict=True)
        if length is None
    ]


def _stretch_sample(predictor: Predictor, length: int) -> Rows:
    """Return the sample with its values repeated so that each dynamic dimension has this length."""
    arrays = {}
    for name, value, array in _specs(predictor.spec, predictor.sample):
        stretched = array
        for axis, fixed in enumerate(value.row_shape, 1):
            if fixed is None:
                stretched = np.take(stretched, np.arange(length) % stretched.shape[axis], axis)
        arrays[name] = stretched
    return Columns(arrays) if isinstance(predictor.sample, Columns) else arrays[""]


def _count_numbers(predictor: Predictor, length: int) -> int:
    return max(
        int(np.prod([float(fixed or length) for fixed in value.row_shape]))
        for _, value, _ in _specs(predictor.spec, predictor.sample)
    )


def _time_inference(predictor: Predictor, length: int) -> float | None:
    """Return the seconds of an inference on a row of this length; None if the model fails on it."""
    rows = _stretch_sample(predictor, length)
    began = time.perf_counter()
    try:
        predictor.predict(rows)
    except Exception:  # noqa: BLE001 (ONNX Runtime's errors share no other base class)
        return None
    return time.perf_counter() - began


def _peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes; 0 where that is unknown."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 if sys.platform == "linux" else 0
