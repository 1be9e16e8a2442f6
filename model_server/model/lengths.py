"""How long a row may be where a model leaves that free: as long as an inference takes at most a second."""

import sys
import time

import numpy as np

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.predictor import Predictor
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array, Columns, Rows

if sys.platform == "linux":
    import resource

_MOST_SECONDS = 1.0
_MOST_BYTES = 256 << 20  # that an inference of twice the length may take beyond the one before
_MOST_NUMBERS = 1 << 22  # in a row: a body of 8 MiB has no more


def longest_row(predictor: Predictor) -> int | None:
    """Return the length of a row that takes at most a second, found by doubling that of the sample.

    It is never less than the length of the sample. None means that the model takes no row of twice that length, and
    refuses longer ones by itself.
    """
    longest = shortest = max(_lengths(predictor.spec, predictor.sample))
    refused = 0
    while _numbers(predictor, 2 * longest) <= _MOST_NUMBERS:
        peak = _peak_bytes()
        seconds = _seconds(predictor, 2 * longest)
        if seconds is None:
            refused = 2 * longest
            break
        if seconds > _MOST_SECONDS:
            return longest
        longest *= 2
        if seconds > _MOST_SECONDS / 2 or _peak_bytes() - peak > _MOST_BYTES:
            return longest
    if refused and longest == shortest:
        return None
    while refused - longest > 1:  # a model with so many positions, say
        middle = (longest + refused) // 2
        seconds = _seconds(predictor, middle)
        if seconds is None:
            refused = middle
        elif seconds > _MOST_SECONDS:
            return longest
        else:
            longest = middle
    return longest


def _specs(spec: RowSpec | ColumnsSpec, rows: Rows) -> list[tuple[str, RowSpec, Array]]:
    if isinstance(rows, Columns):
        assert isinstance(spec, ColumnsSpec)  # noqa: S101 (for the type checker)
        return [(name, value, rows[name]) for name, value in spec.inputs.items()]
    assert isinstance(spec, RowSpec)  # noqa: S101 (likewise)
    return [("", spec, rows)]


def _lengths(spec: RowSpec | ColumnsSpec, rows: Rows) -> list[int]:
    """Return the lengths that these rows have where the spec leaves them free."""
    return [
        found
        for _, value, array in _specs(spec, rows)
        for found, length in zip(array.shape[1:], value.row_shape, strict=True)
        if length is None
    ]


def _stretched(predictor: Predictor, length: int) -> Rows:
    """Return the sample with its values repeated up to a length, wherever that is free."""
    arrays = {}
    for name, value, array in _specs(predictor.spec, predictor.sample):
        stretched = array
        for axis, fixed in enumerate(value.row_shape, 1):
            if fixed is None:
                stretched = np.take(stretched, np.arange(length) % stretched.shape[axis], axis)
        arrays[name] = stretched
    return Columns(arrays) if isinstance(predictor.sample, Columns) else arrays[""]


def _numbers(predictor: Predictor, length: int) -> int:
    return max(
        int(np.prod([float(fixed or length) for fixed in value.row_shape]))
        for _, value, _ in _specs(predictor.spec, predictor.sample)
    )


def _seconds(predictor: Predictor, length: int) -> float | None:
    """Return how long an inference on one row of a length takes; None if the model takes no such row."""
    rows = _stretched(predictor, length)
    began = time.perf_counter()
    try:
        predictor.predict(rows)
    except Exception:  # noqa: BLE001 (ONNX Runtime's errors have no base in common)
        return None
    return time.perf_counter() - began


def _peak_bytes() -> int:
    """Return the most memory that this process has had; 0 where that is unknown."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 if sys.platform == "linux" else 0
