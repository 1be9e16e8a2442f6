"""Strict parsing of rows, and the error messages for invalid bodies."""

import signal
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import orjson
import pytest

from model_server.model.row_spec import RowSpec
from model_server.model.rows import InvalidRowsError
from model_server.protocols.json_body import BodyError, format_error
from model_server.protocols.json_rows import JsonRows, encode_answers

IRIS = RowSpec(np.dtype(np.float32), (4,))
ROW = [5.1, 3.5, 1.4, 0.2]


def refusal(body: bytes) -> str:
    try:
        JsonRows(IRIS).parse(body)
    except InvalidRowsError as error:
        return format_error(error, "data")
    except BodyError as error:
        return str(error)
    raise AssertionError(body)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is not valid JSON: "),
        (b'{"data": [[5.1, 3.5', "The body is not valid JSON: "),
        (b'{"data": [[NaN, 1, 1, 1]]}', "The body is not valid JSON: "),
        (b'{"data": [[Infinity, 1, 1, 1]]}', "The body is not valid JSON: "),
        (b'{"data": [[1e999, 1, 1, 1]]}', "The body is not valid JSON: "),
        (b'\xff{"data": []}', "The body is not valid JSON: "),
        (b"[" * 100_000, "The body is not valid JSON: "),
        (b"[[1, 2, 3, 4]]", 'The body is a list; expected an object, {"data": [row, ...]}.'),
        (b"null", 'The body is null; expected an object, {"data": [row, ...]}.'),
        (b"{}", 'The field "data" is missing; expected {"data": [row, ...]}.'),
        (b'{"data": [], "data": [[1, 2, 3, 4]]}', 'The field "data" appears twice; expected once.'),
        (b'{"d\\u0061ta": [], "data": [[1, 2, 3, 4]]}', 'The field "data" appears twice; expected once.'),
        (b'{"data": [], "extra": 1}', "The field 'extra' is unknown; expected \"data\" only."),
    ],
)
def test_refuses_a_body(body: bytes, sentence: str) -> None:
    assert refusal(body).startswith(sentence)


def test_a_body_larger_than_memory_is_not_reported_as_invalid() -> None:
    program = """
        import resource
        from pathlib import Path
        import numpy as np
        from model_server.model.row_spec import RowSpec
        from model_server.protocols.json_rows import JsonRows

        body = b'{"data": "' + b"x" * (8 << 20) + b'"}'
        used = int(Path("/proc/self/status").read_text().partition("VmSize:")[2].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
        try:
            JsonRows(RowSpec(np.dtype(np.float32), (4,))).parse(body)
        except MemoryError:
            print("no memory")
        """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    # orjson itself may crash when memory is exhausted.
    assert (ended.returncode, ended.stdout) in [(0, "no memory\n"), (-signal.SIGSEGV, "")], ended.stderr


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "data is null; expected a list of rows."),
        ("rows", "data is a string; expected a list of rows."),
        ({"0": ROW}, "data is an object; expected a list of rows."),
        (1.5, "data is 1.5; expected a list of rows."),
        ([], "data is empty; expected rows."),
        (ROW, "data[0] is 5.1; expected a list of 4 numbers."),
        ([[]], "data[0] has length 0; expected 4 numbers."),
        ([ROW, ROW[:3]], "data[1] has length 3; expected 4 numbers."),
        ([[*ROW, 1.0]], "data[0] has length 5; expected 4 numbers."),
        ([ROW, None], "data[1] is null; expected a list of 4 numbers."),
        ([[ROW]], "data[0] has length 1; expected 4 numbers."),
        ([[ROW, ROW, ROW, ROW]], "data[0][0] is a list; expected a number from"),
        ([ROW, [1, "2", 3, 4]], "data[1][1] is a string; expected a number from"),
        ([[1, 2, True, 4]], "data[0][2] is a boolean; expected a number from"),
        ([[1, 2, 3, None]], "data[0][3] is null; expected a number from"),
        ([[1, 2, 3, {}]], "data[0][3] is an object; expected a number from"),
        ([[1e39, 2, 3, 4]], "data[0][0] is 1e+39; expected a number from -3.4028234663852886e+38 to"),
    ],
)
def test_refuses_data(data: object, sentence: str) -> None:
    assert refusal(orjson.dumps({"data": data})).startswith(sentence)


@pytest.mark.parametrize(
    ("answers", "body"),
    [
        (np.array([[0.5, 0.25]], np.float32), b'{"prediction":[0.5,0.25]}'),
        (np.array([[0.5, 0.25], [0.1, 0.9]], np.float64), b'{"prediction":[[0.5,0.25],[0.1,0.9]]}'),
        (np.array([0.1], np.float32), b'{"prediction":0.10000000149011612}'),
        (["setosa"], b'{"prediction":"setosa"}'),
        (["setosa", "virginica"], b'{"prediction":["setosa","virginica"]}'),
        ([{"label": "setosa", "rank": np.int64(1)}], b'{"prediction":{"label":"setosa","rank":1}}'),
    ],
)
def test_a_single_answer_is_not_in_a_list(answers: Any, body: bytes) -> None:
    assert encode_answers(answers) == body


def test_many_answers_have_every_digit() -> None:
    answers = np.full((1000, 3), 0.1, np.float32)
    assert orjson.loads(encode_answers(answers))["prediction"] == answers.tolist()


def test_other_fields_are_returned_separately() -> None:
    rows, fields = JsonRows(IRIS, "rows").parse_with_fields(orjson.dumps({"rows": [ROW], "top": 2}))
    assert (rows.shape, fields) == ((1, 4), {"top": 2})
    with pytest.raises(BodyError, match='The field "rows" is missing'):
        JsonRows(IRIS, "rows").parse_with_fields(b'{"data": []}')
