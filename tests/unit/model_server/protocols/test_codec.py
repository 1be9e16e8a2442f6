"""Strict rows: what is taken, and the sentence for what is not."""

import signal
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import orjson
import pytest

from model_server.errors import RequestError
from model_server.protocols.codec import RowCodec

IRIS = RowCodec(np.dtype(np.float32), (4,))
ROW = [5.1, 3.5, 1.4, 0.2]


def refusal(codec: RowCodec, body: bytes) -> str:
    with pytest.raises(RequestError) as refused:
        codec.parse(body)
    assert refused.value.status == 400
    return refused.value.detail


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
        (b'{"data": [], "data": [[1, 2, 3, 4]]}', 'The field "data" stands twice; expected it once.'),
        (b'{"d\\u0061ta": [], "data": [[1, 2, 3, 4]]}', 'The field "data" stands twice; expected it once.'),
        (b'{"data": [], "extra": 1}', "The field 'extra' is unknown; expected \"data\" only."),
    ],
)
def test_refuses_a_body(body: bytes, sentence: str) -> None:
    assert refusal(IRIS, body).startswith(sentence)


def test_a_body_that_no_memory_holds_is_not_called_invalid() -> None:
    program = """
        import resource
        from pathlib import Path
        import numpy as np
        from model_server.protocols.codec import RowCodec

        body = b'{"data": "' + b"x" * (8 << 20) + b'"}'
        used = int(Path("/proc/self/status").read_text().partition("VmSize:")[2].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
        try:
            RowCodec(np.dtype(np.float32), (4,)).parse(body)
        except MemoryError:
            print("no memory")
        """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    # orjson itself may not survive it.
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
    assert refusal(IRIS, orjson.dumps({"data": data})).startswith(sentence)


def test_refuses_nan_from_a_caller_in_the_process() -> None:
    with pytest.raises(RequestError, match=r"data\[0\]\[0\] is nan"):
        IRIS.rows([[float("nan"), 1, 1, 1]])


@pytest.mark.parametrize(
    ("dtype", "number", "sentence"),
    [
        ("float16", 65520, "expected a number from -65504.0 to 65504.0."),
        ("int8", 128, "expected a whole number from -128 to 127."),
        ("int8", -129, "expected a whole number from -128 to 127."),
        ("uint8", -1, "expected a whole number from 0 to 255."),
        ("int32", 5.5, "expected a whole number from -2147483648 to 2147483647."),
        ("int64", 2**63, "expected a whole number from -9223372036854775808 to 9223372036854775807."),
        ("int64", 1e300, "expected a whole number from -9223372036854775808 to 9223372036854775807."),
        ("uint64", 18446744073709551616.0, "expected a whole number from 0 to 18446744073709551615."),
        ("bool", 2, "expected a whole number from 0 to 1."),
        ("bool", 0.5, "expected a whole number from 0 to 1."),
        ("bool", True, "expected a whole number from 0 to 1."),
    ],
)
def test_refuses_a_number_outside_the_type(dtype: str, number: float, sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        RowCodec(np.dtype(dtype), ()).rows([0, number])
    assert refused.value.detail.startswith("data[1] is ")
    assert refused.value.detail.endswith(sentence)


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
def test_takes_all_that_fits_the_type(dtype: str, numbers: list[Any]) -> None:
    taken = RowCodec(np.dtype(dtype), ()).parse(orjson.dumps({"data": numbers}))
    assert taken.dtype == dtype
    assert [taken.dtype.type(number) for number in numbers] == taken.tolist()


def test_keeps_rank_and_order() -> None:
    numbers = np.arange(24).reshape(2, 3, 2, 2)
    assert RowCodec(np.dtype(np.int16), (3, 2, 2)).rows(numbers.tolist()).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([[[1, 2]], [[1, 2], [3, 4]]], "data[1] has length 2; expected 1 lists, as in data[0]."),
        ([[[1, 2]], [[1, 2, 3]]], "data[1][0] has length 3; expected 2 numbers, as in data[0][0]."),
        ([[]], "data[0] is empty; expected lists."),
        ([1], "data[0] is 1; expected a list of lists."),
    ],
)
def test_refuses_ragged_free_dimensions(data: object, sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        RowCodec(np.dtype(np.float32), (None, None)).rows(data)
    assert refused.value.detail == sentence
