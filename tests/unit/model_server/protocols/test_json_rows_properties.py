"""The parser agrees with a slow, simple reference parser on any body."""

import json
import math
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_server.model.row_spec import RowSpec
from model_server.model.rows import InvalidRowsError
from model_server.protocols import json_rows
from model_server.protocols.json_body import BodyError
from model_server.protocols.json_rows import JsonRows

DTYPES = ["float16", "float32", "float64", "int8", "int64", "uint16", "uint64", "bool"]
SHAPES: list[tuple[int | None, ...]] = [(), (1,), (4,), (2, 3), (None,), (None, 2)]
EDGES = [
    0,
    -0.0,
    1,
    -1,
    255,
    2**53,
    2**53 + 1,
    2.0**53,
    -(2**63) - 1,
    2**63,
    2**64,
    1e300,
    65504,
    65520,
    3.4028235677973366e38,
    5e-324,
    0.5,
]
OTHERS: list[Any] = [None, True, False, "1", "[", "", {}, []]


class RefusedError(Exception):
    """The reference refuses the body."""


def read(value: Any, shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> Any:
    """Return a row as nested lists of the dtype's numbers."""
    if shape:
        if type(value) is not list or not value or len(value) != (shape[0] or len(value)):
            raise RefusedError
        return [read(element, shape[1:], dtype) for element in value]
    if type(value) not in (int, float) or not -math.inf < value < math.inf:
        raise RefusedError
    if dtype.kind == "f":
        try:
            number = float(value)
        except OverflowError as error:
            raise RefusedError from error
        if abs(number) > float(np.finfo(dtype).max):
            raise RefusedError
        return np.float64(number).astype(dtype).item()
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if type(value) is float and abs(value) >= 2**53:
        raise RefusedError
    if value != int(value) or not limits[0] <= int(value) <= limits[1]:
        raise RefusedError
    return dtype.type(int(value)).item()


def shape_of(value: Any) -> tuple[int, ...]:
    if type(value) is not list:
        return ()
    shapes = {shape_of(element) for element in value}
    if len(shapes) != 1:
        raise RefusedError
    return (len(value), *shapes.pop())


def reference(body: bytes, shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> list[Any]:
    """Return the rows of a body, parsed in the slow and simple way."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise RefusedError
        return dict(pairs)

    def constant(_: str) -> float:
        raise RefusedError

    try:
        document = json.loads(body.decode(), object_pairs_hook=members, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError from error
    if body.startswith(b"\xef\xbb\xbf") or type(document) is not dict or list(document) != ["data"]:
        raise RefusedError
    rows = document["data"]
    if type(rows) is not list or not rows:
        raise RefusedError
    read_rows = [read(row, shape, dtype) for row in rows]
    shape_of(read_rows)
    return read_rows


def nested(shape: tuple[int | None, ...], numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    for length in reversed(shape):
        numbers = st.lists(numbers, min_size=length or 1, max_size=length or 3)
    return st.lists(numbers, max_size=4)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int | None, ...], str, bytes]:
    """Draw a shape, a type, and a body with valid or nearly valid rows."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    small = st.one_of(st.integers(0, 1), st.integers(-200, 200), st.integers(-10, 10).map(float))
    number = small if draw(st.booleans()) else st.one_of(small, st.floats(allow_nan=False), st.sampled_from(EDGES))
    element = st.one_of(number, number, number, st.sampled_from(OTHERS)) if draw(st.integers(0, 3)) == 0 else number
    document: Any = {"data": draw(nested(shape, element))}
    if draw(st.integers(0, 9)) == 0:
        document = draw(st.sampled_from([document["data"], {**document, "more": 1}, {"rows": 1}, [document], {}, 7]))
    separators = draw(st.sampled_from([None, (",", ":"), (" , ", " : "), (",\n\t", ":\r\n")]))
    body = json.dumps(document, separators=separators).encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(body)))
        kept = at + draw(st.integers(0, 2))
        spoiler = draw(
            st.sampled_from([b"", b"[", b"]", b",", b"-", b"0", b".", b"e", b"9" * 30, b"\xff", b"\0", b"{}", b'"'])
        )
        body = body[:at] + spoiler + body[kept:]
    return shape, dtype, body


@given(cases(), st.sampled_from([0, json_rows._FEW_BYTES]))
@example(((4,), "float32", b'\xef\xbb\xbf{"data":[[1,2,3,4]]}'), 0)
@example(((4,), "float32", b'[{"data":[1,2,3,4]}]'), 0)
@example(((4,), "float32", b'{"data":[[1,2,3,4]],"data":[[1,2,3,4]]}'), 0)
@example(((4,), "float32", b'{"data":[[1,2],[3,4]]}'), 0)
@example(((4,), "float32", b'{"data":[1,[2,3,4]]}'), 0)
@example(((2, 3), "float32", b'{"data":[[[1,2],[3,4],[5,6]]]}'), 0)
@example(((), "uint64", b'{"data":[9007199254740993,18446744073709551615]}'), 0)
@example(((), "float32", b'{"data":[]}'), 0)
def test_parses_like_the_reference(case: tuple[tuple[int | None, ...], str, bytes], few_bytes: int) -> None:
    """Small bodies are parsed in both ways, as if they held few rows and as if they held many."""
    shape, dtype, body = case
    parse = JsonRows(RowSpec(np.dtype(dtype), shape)).parse
    try:
        expected = reference(body, shape, np.dtype(dtype))
    except RefusedError:
        with pytest.raises((BodyError, InvalidRowsError)), patch.object(json_rows, "_FEW_BYTES", few_bytes):
            parse(body)
    else:
        with patch.object(json_rows, "_FEW_BYTES", few_bytes):
            rows = parse(body)
        assert rows.dtype == dtype
        np.testing.assert_array_equal(rows, np.array(expected, dtype))
