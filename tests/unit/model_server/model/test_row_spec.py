"""Strict validation of rows for models with one input."""

from typing import Any

import numpy as np
import pytest

from model_server.model.row_spec import RowSpec
from model_server.model.rows import InvalidRowsError
from model_server.protocols.json_body import format_error

IRIS = RowSpec(np.dtype(np.float32), (4,))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "O"])
def test_takes_arrays(dtype: str) -> None:
    rows = np.arange(8).reshape(2, 4).astype(dtype)
    taken = IRIS.rows(rows)
    assert taken.dtype == np.float32
    assert taken.tolist() == rows.tolist()
    assert (taken is rows) == (dtype == "float32")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (np.ones((2, 3), np.float32), "rows[0] has length 3; expected 4 numbers"),
        (np.ones(4, np.float32), "rows[0] is 1.0; expected a list of 4 numbers"),
        (np.ones((0, 4), np.float32), "rows is empty; expected rows"),
        (np.float32(1), "rows is np.float32(1.0); expected a list of rows"),
        (np.array([[1, 2, 3, np.nan]], np.float32), "rows[0][3] is nan; expected a number"),
        (np.array([[1, 2, 3, True]], "O"), "rows[0][3] is a boolean; expected a number"),
        (np.ones((1, 4), np.bool_), "rows[0][0] is a boolean; expected a number"),
        (np.array([[1, 2, 3, 1e39]]), "rows[0][3] is 1e+39; expected a number"),
    ],
)
def test_refuses_arrays(rows: Any, problem: str) -> None:
    with pytest.raises(InvalidRowsError) as refused:
        IRIS.rows(rows)
    assert str(refused.value).startswith(problem)


def test_refuses_nan_from_in_process_callers() -> None:
    with pytest.raises(InvalidRowsError, match=r"rows\[0\]\[0\] is nan"):
        IRIS.rows([[float("nan"), 1, 1, 1]])


@pytest.mark.parametrize(
    ("dtype", "number", "sentence"),
    [
        ("float16", 65520, "expected a number from -65504.0 to 65504.0"),
        ("int8", 128, "expected a whole number from -128 to 127"),
        ("int8", -129, "expected a whole number from -128 to 127"),
        ("uint8", -1, "expected a whole number from 0 to 255"),
        ("int32", 5.5, "expected a whole number from -2147483648 to 2147483647"),
        ("int64", 2**63, "expected a whole number from -9223372036854775808 to 9223372036854775807"),
        ("int64", 1e300, "expected a whole number from -9223372036854775808 to 9223372036854775807"),
        ("uint64", 18446744073709551616.0, "expected a whole number from 0 to 18446744073709551615"),
        ("bool", 2, "expected a whole number from 0 to 1"),
        ("bool", 0.5, "expected a whole number from 0 to 1"),
        ("bool", True, "expected a whole number from 0 to 1"),
    ],
)
def test_refuses_a_number_outside_the_type(dtype: str, number: float, sentence: str) -> None:
    with pytest.raises(InvalidRowsError) as refused:
        RowSpec(np.dtype(dtype), ()).rows([0, number])
    assert str(refused.value).startswith("rows[1] is ")
    assert str(refused.value).endswith(sentence)


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [
        ("float16", [65504, -0.0, 1e-300]),
        ("float32", [3.4028234663852886e38, 16777217, 5]),
        ("float64", [1.7976931348623157e308, 5e-324]),
        ("int64", [-(2**63), 2**63 - 1, 5.0, -0.0]),
        ("uint64", [2**64 - 1, 0, 3.0]),
        ("bool", [0, 1, 1.0]),
    ],
)
def test_takes_all_numbers_that_fit_the_type(dtype: str, numbers: list[Any]) -> None:
    taken = RowSpec(np.dtype(dtype), ()).rows(numbers)
    assert taken.dtype == dtype
    assert [taken.dtype.type(number) for number in numbers] == taken.tolist()


def test_keeps_rank_and_order() -> None:
    numbers = np.arange(24).reshape(2, 3, 2, 2)
    assert RowSpec(np.dtype(np.int16), (3, 2, 2)).rows(numbers.tolist()).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([[[1, 2]], [[1, 2], [3, 4]]], "data[1] has length 2; expected 1 lists, as in data[0]."),
        ([[[1, 2]], [[1, 2, 3]]], "data[1][0] has length 3; expected 2 numbers, as in data[0][0]."),
        ([[]], "data[0] is empty; expected lists."),
        ([1], "data[0] is 1; expected a list of lists."),
    ],
)
def test_refuses_ragged_dynamic_dimensions(data: object, sentence: str) -> None:
    with pytest.raises(InvalidRowsError) as refused:
        RowSpec(np.dtype(np.float32), (None, None)).rows(data)
    assert format_error(refused.value, "data") == sentence
