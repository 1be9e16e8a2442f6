"""JSON rows with named columns: the fast path and the strict parser agree on any body."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Columns, InvalidRowsError
from model_server.protocols.json_body import BodyError, format_error
from model_server.protocols.json_columns import JsonColumns, make_rows_parser
from model_server.protocols.json_rows import JsonRows


def spec(dtype: str, *row_shape: int | None) -> RowSpec:
    return RowSpec(np.dtype(dtype), row_shape)


MIXED = ColumnsSpec(
    {
        "age": spec("float32", 1),
        "fare": spec("float32"),
        "height": spec("float64", 1),
        "children": spec("int8", 1),
        "id": spec("uint64"),
        "married": spec("bool", 1),
        "home town": spec("O", 1),
        "name": spec("O"),
        "scores": spec("float32", 2),
        "words": spec("O", None),
    }
)
ROW: dict[str, Any] = {
    "age": 31.5,
    "fare": 7,
    "height": 1e300,
    "children": -3,
    "id": 2**64 - 1,
    "married": True,
    "home town": "Åbo",
    "name": "",
    "scores": [1.5, -2],
    "words": ["a", "b"],
}


class RefusedError(Exception):
    """The reference refuses the body."""


def reference(body: bytes) -> Columns:
    """Return the rows of a body as the strict parser reads them; repeated names are refused."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise RefusedError
        return dict(pairs)

    def constant(_: str) -> float:
        raise RefusedError

    try:
        document = json.loads(body.decode(), object_pairs_hook=members, parse_constant=constant)
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RefusedError from error
    if body.startswith(b"\xef\xbb\xbf") or type(document) is not dict or list(document) != ["data"]:
        raise RefusedError
    try:
        return MIXED.rows(document["data"])
    except InvalidRowsError as error:
        raise RefusedError from error


NUMBERS = st.one_of(
    st.integers(-200, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 5.0, 2**53 + 1, 2**64 - 1, 2**64, -(2**63), 3.4028235677973366e38, 10**30, 1e-320]),
)
STRINGS = st.one_of(
    st.text(max_size=5), st.sampled_from(['"', "\\", '\\"', "{", "[", "]", "\0", "é", "😀", "data", '"data":'])
)
ANY = st.one_of(NUMBERS, STRINGS, st.booleans(), st.none(), st.just([]), st.just({}))
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "age": NUMBERS,
    "fare": NUMBERS,
    "height": NUMBERS,
    "children": st.one_of(st.integers(-128, 127), NUMBERS),
    "id": st.integers(0, 2**64 - 1),
    "married": st.one_of(st.booleans(), st.integers(0, 2)),
    "home town": STRINGS,
    "name": STRINGS,
    "scores": st.lists(NUMBERS, min_size=2, max_size=2),
    "words": st.lists(STRINGS, min_size=1, max_size=2),
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw a body with valid or nearly valid rows."""
    are_lists = draw(st.booleans())
    rows: list[Any] = []
    for _ in range(draw(st.integers(0, 3))):
        row = {name: draw(value) for name, value in SCALARS.items()}
        if draw(st.integers(0, 5)) == 0:
            row[draw(st.sampled_from([*row, "other", "", '"']))] = draw(ANY)
        if draw(st.integers(0, 5)) == 0:
            del row[draw(st.sampled_from(list(row)))]
        rows.append(list(row.values()) if are_lists and draw(st.integers(0, 5)) else row)
    document: Any = {"data": rows}
    if draw(st.integers(0, 9)) == 0:
        document = draw(st.sampled_from([rows, {**document, "more": 1}, {"rows": rows}, {}, 7]))
    body = json.dumps(document, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))).encode(
        "utf-8", "surrogatepass"
    )
    if draw(st.integers(0, 3)) == 0 and b'"age"' in body:  # a name twice
        body = body.replace(
            b'"age"', draw(st.sampled_from([b'"age": 1, "age"', b'"fare": 1, "age"', b'"\\u0061ge"'])), 1
        )
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(body)))
        spoiler = draw(
            st.sampled_from([b"", b"[", b"]", b",", b"-", b"0", b".", b"9" * 30, b"\xff", b"\0", b"{}", b'"', b"\\"])
        )
        body = body[:at] + spoiler + body[at + draw(st.integers(0, 2)) :]
    return body


@given(bodies())
@example(json.dumps({"data": [ROW, ROW]}).encode())
@example(json.dumps({"data": [list(ROW.values())]}).encode())
@example(json.dumps({"data": [{**ROW, "name": '\\"'}]}).encode())
@example(b'\xef\xbb\xbf{"data":[]}')
@example(json.dumps({"data": [ROW]}).encode().replace(b'"age": 31.5', b'"age": "x", "age": 31.5'))
@example(json.dumps({"data": [{**ROW, "name": '"' * 4}]}).encode().replace(b'"age": 31.5', b'"age": 1, "age": 31.5'))
def test_parses_like_the_reference(body: bytes) -> None:
    parse = JsonColumns(MIXED).parse
    try:
        expected = reference(body)
    except RefusedError:
        with pytest.raises((BodyError, InvalidRowsError)):
            parse(body)
    else:
        rows = parse(body)
        assert len(rows) == len(expected)
        for name, array in expected.arrays.items():
            assert rows[name].dtype == array.dtype
            assert rows[name].flags.c_contiguous
            np.testing.assert_array_equal(rows[name], array)


@pytest.mark.parametrize("count", [1, 3, 200])
@pytest.mark.parametrize("form", [dict, lambda row: list(row.values())], ids=["objects", "lists"])
def test_plain_rows_use_the_fast_path(count: int, form: Any) -> None:
    body = json.dumps({"data": [form(ROW)] * count}).encode()
    rows = JsonColumns(MIXED)._parse_typed(body)
    assert rows is not None
    assert MIXED.as_json(rows) == [ROW] * count


def refusal(reader: JsonRows | JsonColumns, body: bytes) -> str:
    with pytest.raises((BodyError, InvalidRowsError)) as refused:
        reader.parse(body)
    return format_error(refused.value, "data") if isinstance(refused.value, InvalidRowsError) else str(refused.value)


def test_repeated_names_are_reported() -> None:
    body = json.dumps({"data": [ROW, ROW]}).encode()
    reader = JsonColumns(MIXED)
    again = body[: body.rindex(b'"age"')] + b'"age": 5, ' + body[body.rindex(b'"age"') :]
    assert refusal(reader, again) == "data[1].age appears twice; expected once."
    assert refusal(reader, b'{"data": 1, ' + body[1:]) == 'The field "data" appears twice; expected once.'
    assert refusal(reader, b'{"x": 1, ' + body[1:]) == "The field 'x' is unknown; expected \"data\" only."


def test_other_fields_are_returned_separately() -> None:
    rows, fields = JsonColumns(MIXED, "rows").parse_with_fields(json.dumps({"rows": [ROW], "top": 2}).encode())
    assert (MIXED.as_json(rows), fields) == ([ROW], {"top": 2})


@pytest.mark.parametrize("depth", [900, 1010])
def test_deep_nesting_is_accepted_or_refused(depth: int) -> None:
    body = json.dumps({"data": [ROW]})[:-1] + ', "top": ' + "[" * depth + "]" * depth + "}"
    with suppress(BodyError):  # whether it is too deep depends on Python
        JsonColumns(MIXED).parse_with_fields(body.encode())


def test_names_that_only_the_slow_path_supports() -> None:
    odd = ColumnsSpec({'a "quoted" name': spec("float32"), "\\": spec("float32")})
    rows = {'a "quoted" name': 1.5, "\\": 2.5}
    assert odd.as_json(JsonColumns(odd).parse(json.dumps({"data": [rows]}).encode())) == [rows]


IRIS = RowSpec(np.dtype(np.float32), (2,), ["width", "length"])


def test_one_input_with_feature_names() -> None:
    reader = make_rows_parser(IRIS, "data")
    assert isinstance(reader, JsonRows)
    rows = reader.parse(b'{"data": [{"length": 2, "width": 1}, [3, 4]]}')
    assert rows.tolist() == [[1, 2], [3, 4]]
    assert refusal(reader, b'{"data": [{"length": 2}]}').startswith("data[0].width is missing; expected a number")
    assert refusal(reader, b'{"data": [[1, 2], {"length": "2", "width": 1}]}').startswith("data[1].length is a string")
    assert refusal(reader, b'{"data": [{"length": 2, "width": 1, "x": 1}]}').startswith("data[0].x is unknown;")
    twice = b'{"data": [{"length": 2, "width": 1, "width": 1}]}'
    assert refusal(reader, twice) == "data[0].width appears twice; expected once."
    with pytest.raises(InvalidRowsError):
        reader.parse_with_fields(twice)


def test_ambiguous_feature_names_are_ignored() -> None:
    assert RowSpec(np.dtype(np.float32), (2,), ["a", "a"]).names == ()


@pytest.mark.parametrize("shape", [(), (1,)])
def test_text(shape: tuple[int, ...]) -> None:
    strings = ["plain", 'with "quotes"', "back\\slash", "\0", "😀", "", '\\"']
    reader = JsonRows(RowSpec(np.dtype(object), shape))
    body = json.dumps({"data": [[text] if shape else text for text in strings]}).encode()
    assert reader.parse(body).ravel().tolist() == strings
    wrong = json.dumps({"data": [[5] if shape else 5]}).encode()
    assert refusal(reader, wrong) == f"data[0]{'[0]' if shape else ''} is 5; expected a string."
    assert refusal(reader, b'{"data": 1, ' + body[1:]) == 'The field "data" appears twice; expected once.'
