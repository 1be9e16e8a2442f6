"""Hostile requests: each is answered at once, in the common error format, and leaves nothing in memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nightly import NIGHTLY
from tests.support.processes import Server, until
from tests.support.wire import ROW, answer, ask, connect, first_answers, request

MIB = 1 << 20
ROUTES = [b"/predict", b"/predict/label"]

BODIES = {
    "100 000 brackets": b"[" * 100_000,
    "100 000 objects": b'{"data":' * 100_000,
    "rows 100 000 deep": b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 8 MiB": (b'{"data": [[' + b"9" * (8 * MIB - 20) + b"]]}"),
    "a fraction of 8 MiB": (b'{"data": [[0.' + b"3" * (8 * MIB - 30) + b"]]}"),
    "a string of 8 MiB": (b'{"data": "' + b"x" * (8 * MIB - 20) + b'"}'),
    "300 000 empty rows": b'{"data": [' + b"[]," * 300_000 + b"[]]}",
    "a key twice": b'{"data": [[1, 2, 3, 4]], "data": [[1, 2, 3, 4]]}',
    "a key twice, once escaped": b'{"data": [[1, 2, 3, 4]], "d\\u0061ta": [[1, 2, 3, 4]]}',
    "500 000 keys": b"{" + b",".join(b'"%d":0' % number for number in range(500_000)) + b"}",
    "a byte order mark": b"\xef\xbb\xbf" + ROW,
    "UTF-16": ROW.decode().encode("utf-16"),
    "invalid UTF-8": b'{"data": [["\xff\xfe", 2, 3, 4]]}',
    "a lone surrogate": b'{"data": [["\\ud800", 2, 3, 4]]}',
    "a lone surrogate in a key": b'{"\\ud800": 1}',
    "NUL": b'{"data": [[1, 2, 3, 4]]}\0',
    "NUL in a key": b'{"da\0ta": [[1, 2, 3, 4]]}',
    "only NUL": b"\0" * 1000,
    "1e308 into float32": b'{"data": [[1e308, 2, 3, 4]]}',
    "1e400": b'{"data": [[1e400, 2, 3, 4]]}',
    "an endless exponent": b'{"data": [[1e' + b"9" * 1000 + b", 2, 3, 4]]}",
    "trailing garbage": ROW + b"x",
    "two documents": ROW + ROW,
    "a comment": b'{"data": [[1, 2, 3, 4]] /* */}',
    "hexadecimal": b'{"data": [[0x10, 2, 3, 4]]}',
    "infinity": b'{"data": [[Infinity, 2, 3, 4]]}',
    "newlines": b"\r\n" * 1000,
    "a prototype": b'{"__proto__": {"data": [[1, 2, 3, 4]]}}',
    "a pickle": pickle.dumps({"data": [[1.0, 2.0, 3.0, 4.0]]}),
}

ACCEPTED = {
    "minus zero": b'{"data": [[-0, -0.0, 0, 0]]}',
    "denormals": b'{"data": [[5e-324, 1e-45, -1e-320, 4]]}',
    "2**63": b'{"data": [[9223372036854775808, 18446744073709551616, 3, 4]]}',
    "the largest of float32": b'{"data": [[3.4028234663852886e38, 2, 3, 4]]}',
    "many digits": b'{"data": [[0.' + b"1" * 10_000 + b", 2, 3, 4]]}",
}

TYPES = {
    "gzip": b"Content-Encoding: gzip\r\n",
    "two encodings": b"Content-Encoding: identity, gzip\r\n",
    "a pickle": b"Content-Type: application/vnd.bentoml+pickle\r\n",
    "a Python pickle": b"Content-Type: application/x-pickle\r\n",
    "multipart": b"Content-Type: multipart/form-data; boundary=x\r\n",
    "a form": b"Content-Type: application/x-www-form-urlencoded\r\n",
    "XML": b"Content-Type: application/xml\r\n",
    "an invalid type": b"Content-Type: \xff\xfe\r\n",
    "an endless type": b"Content-Type: " + b"application/json;" * 1000 + b" charset=latin-1\r\n",
}

HEADS: dict[str, tuple[bytes, int]] = {
    "a header of 100 KiB": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100 * 1024 + b"\r\n\r\n", 431),
    "5 000 headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Some-Header: some value\r\n" * 5000 + b"\r\n", 431),
    "endless headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000, 431),
    "an endless header name": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x" * 500_000, 431),
    "a path of 100 KiB": (b"GET /" + b"x" * 100 * 1024 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    "a path of 60 KiB": (b"GET /" + b"x" * 60 * 1024 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a path upwards": (b"GET /static_content/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a path upwards, escaped": (b"GET /static_content/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a path with NUL": (b"GET /static_content/%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a path that is not UTF-8": (b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a path with raw bytes": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a path with newlines, escaped": (b"GET /a%0d%0ab HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "no path": (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a path without a slash": (b"GET predict HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "another host's URL": (b"GET http://example.com/nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "an unknown method": (b"PREDICT /predict HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a method in lowercase": (b"post /predict HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "TRACE": (b"TRACE /predict HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "PROPFIND": (b"PROPFIND /predict HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200), 400),
    "a space in a header name": (b"GET / HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n", 400),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400),
    "a Content-Length below zero": (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "a Content-Length beyond 2**64": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        400,
    ),
    "a Content-Length of a gigabyte": (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", 413),
    "two Content-Lengths": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        400,
    ),
    "both lengths": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "a Content-Length that is too small": (request(length=10), 400),
    "an invalid chunk size": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        400,
    ),
    "a chunk beyond 2**64": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
        400,
    ),
}


def chunked(body: bytes) -> bytes:
    parts = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def test_bodies(iris: Server) -> None:
    """One test sends all of them, and then checks the memory."""

    def send_all() -> None:
        for name, body in BODIES.items():
            sent = request(body) + request()
            for one in (sent, sent.replace(b"/predict", b"/predict/label", 1), chunked(body) + request()):
                with connect(iris) as connection:
                    connection.sendall(one)
                    refused, after = first_answers(connection, 2)
                assert (refused.status, after.status) == (400, 200), name
                assert refused.detail, name

    send_all()
    before = iris.resident_bytes()
    rounds = 20 if NIGHTLY else 4
    for _ in range(rounds):
        send_all()
    # A round sends 96 MB. The memory that malloc keeps for its threads varies.
    until(lambda: iris.resident_bytes() < before + 256 * MIB, 30)


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_extreme_numbers(iris: Server, body: bytes) -> None:
    for sent in (request(body), chunked(body)):
        assert ask(iris, sent).status == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("head", TYPES.values(), ids=TYPES)
def test_types(iris: Server, head: bytes, route: bytes) -> None:
    refused = ask(iris, request(head=head, path=route))
    assert refused.status == 415
    assert refused.detail


@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
def test_heads(iris: Server, sent: bytes, status: int) -> None:
    with connect(iris) as connection:
        connection.sendall(sent)
        refused = answer(connection)
    assert refused.status == status
    assert refused.detail


def test_document(iris: Server, tmp_path: Path) -> None:
    """The server accepts and refuses requests as its OpenAPI document says, and all answers match that document."""
    options = {
        "checks": "all",
        "max-examples": 500 if NIGHTLY else 20,
        "phases": "examples,coverage,fuzzing,stateful",
        "request-timeout": 60,
    }
    run = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{iris.url}/docs.json",
            *(f"--{name}={value}" for name, value in options.items()),
            "--generation-deterministic",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
