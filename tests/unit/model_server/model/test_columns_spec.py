"""Strict validation of rows for models with several inputs."""

from typing import Any

import numpy as np
import pytest

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Columns, InvalidRowsError, concatenate, repeat
from model_server.protocols.json_body import format_error


def spec(dtype: str, *row_shape: int | None, max_length: int | None = None) -> RowSpec:
    return RowSpec(np.dtype(dtype), row_shape, max_length=max_length)


PEOPLE = ColumnsSpec(
    {
        "age": spec("float32", 1),
        "children": spec("int8"),
        "married": spec("bool", 1),
        "home town": spec("O", 1),
        "scores": spec("float64", 3),
    }
)
ADA: dict[str, Any] = {"age": 36, "children": 3, "married": True, "home town": "London", "scores": [1, 2.5, 3]}
BOB: dict[str, Any] = {"scores": [4, 5, 6], "home town": "Åbo", "married": 0, "children": 0.0, "age": 5.25}
TOKENS = ColumnsSpec(
    {"ids": spec("int64", None, max_length=4), "mask": spec("int64", None, max_length=4)}, [[("ids", 0), ("mask", 0)]]
)


def refusal(of: ColumnsSpec, data: object) -> str:
    with pytest.raises(InvalidRowsError) as refused:
        of.rows(data)
    return format_error(refused.value, "data")


def test_takes_objects_and_lists() -> None:
    objects = PEOPLE.rows([ADA, BOB])
    lists = PEOPLE.rows([[row[name] for name in ADA] for row in (ADA, BOB)])
    mixed = PEOPLE.rows([ADA, [BOB[name] for name in ADA]])
    for rows in (objects, lists, mixed, PEOPLE.rows(objects)):
        assert {name: (str(array.dtype), array.shape) for name, array in rows.arrays.items()} == {
            "age": ("float32", (2, 1)),
            "children": ("int8", (2,)),
            "married": ("bool", (2, 1)),
            "home town": ("object", (2, 1)),
            "scores": ("float64", (2, 3)),
        }
        assert PEOPLE.as_json(rows) == [ADA, {**BOB, "married": False}]


def test_takes_an_array_of_rows() -> None:
    numbers = ColumnsSpec({"a": spec("float32", 1), "b": spec("int64")})
    assert numbers.as_json(numbers.rows(np.array([[1, 2], [3, 4]]))) == [{"a": 1.0, "b": 2}, {"a": 3.0, "b": 4}]


def test_rows_can_be_sliced_repeated_and_concatenated() -> None:
    rows = PEOPLE.rows([ADA, BOB, ADA])
    assert len(rows) == 3
    assert rows["children"].tolist() == [3, 0, 3]
    again = concatenate([rows[:1], rows[[1]], repeat(rows[2:], 2)])
    assert isinstance(again, Columns)
    assert PEOPLE.as_json(again) == PEOPLE.as_json(PEOPLE.rows([ADA, BOB, ADA, ADA]))
    numbers = concatenate([np.ones((2, 1)), np.zeros((1, 1))])
    assert isinstance(numbers, np.ndarray)
    assert numbers.tolist() == [[1], [1], [0]]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"age": "36"}, "data[1].age is a string; expected a number from -3.4028234663852886e+38 to 3.40"),
        ({"age": None}, "data[1].age is null; expected a number"),
        ({"age": [36]}, "data[1].age is a list; expected a number"),
        ({"age": True}, "data[1].age is a boolean; expected a number"),
        ({"age": 1e39}, "data[1].age is 1e+39; expected a number"),
        ({"children": 128}, "data[1].children is 128; expected a whole number from -128 to 127."),
        ({"married": 2}, "data[1].married is 2; expected true, false, 0 or 1."),
        ({"married": "yes"}, "data[1].married is a string; expected true, false, 0 or 1."),
        ({"home town": 5}, 'data[1]["home town"] is 5; expected a string.'),
        ({"home town": "\ud800"}, 'data[1]["home town"] contains a lone surrogate; expected valid Unicode.'),
        ({"scores": 5}, "data[1].scores is 5; expected a list of 3 numbers."),
        ({"scores": [1, 2]}, "data[1].scores has length 2; expected 3 numbers."),
        ({"scores": [1, "2", 3]}, "data[1].scores[1] is a string; expected a number"),
        ({"town": "x"}, 'data[1].town is unknown; expected "age", "children", "married", "home town", "scores".'),
    ],
)
def test_names_the_invalid_column(row: dict[str, Any], sentence: str) -> None:
    assert refusal(PEOPLE, [ADA, {**ADA, **row}]).startswith(sentence)


def test_a_missing_name() -> None:
    without = {name: value for name, value in ADA.items() if name != "home town"}
    assert refusal(PEOPLE, [without]) == 'data[0]["home town"] is missing; expected a string.'
    assert refusal(PEOPLE, [{**without, "town": "x"}]) == 'data[0].town is unknown; expected "home town".'
    assert refusal(PEOPLE, [{}]).startswith("data[0].age is missing; expected a number")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "data is null; expected a list of rows."),
        ({"age": [1]}, "data is an object; expected a list of rows."),
        ([], "data is empty; expected rows."),
        ([5], 'data[0] is 5; expected an object with "age", "children", "married", "home town", "scores", or a list'),
        ([ADA, []], "data[1] has length 0; expected 5 values, one for each input."),
        ([[1, 2, 3, 4]], "data[0] has length 4; expected 5 values, one for each input."),
        ([[1, 2, 0, 4, [1, 2, 3]]], 'data[0]["home town"] is 4; expected a string.'),
    ],
)
def test_refuses_invalid_rows(data: object, sentence: str) -> None:
    assert refusal(PEOPLE, data).startswith(sentence)


def test_shared_dimensions_must_have_the_same_length() -> None:
    assert TOKENS.rows([{"ids": [1, 2], "mask": [1, 1]}, [[3, 4], [1, 0]]])["ids"].tolist() == [[1, 2], [3, 4]]
    assert refusal(TOKENS, [[[1, 2], [1]]]) == "data[0].mask has length 1; expected 2, as in data[0].ids."
    assert (
        refusal(TOKENS, [[[1, 2], [1, 1]], [[1], [1]]])
        == "data[1].ids has length 1; expected 2 numbers, as in data[0].ids."
    )
    assert refusal(TOKENS, [[[], []]]) == "data[0].ids is empty; expected numbers."
    assert (
        refusal(TOKENS, [[[1] * 5, [1] * 5]])
        == "data[0].ids has length 5; expected at most 4 numbers (MAX_ROW_LENGTH)."
    )


def test_columns_from_in_process_callers_are_validated() -> None:
    rows = PEOPLE.rows([ADA])
    assert "has the columns age; expected an object with" in refusal(PEOPLE, Columns({"age": rows["age"]}))
    bad = Columns({**rows.arrays, "age": np.array([[np.nan]], np.float32)})
    assert refusal(PEOPLE, bad).startswith("data[0].age[0] is nan; expected a number")
    uneven = Columns({**rows.arrays, "children": np.array([1, 2], np.int8)})
    assert refusal(PEOPLE, uneven) == "data has 2 values of children for 1 rows."
