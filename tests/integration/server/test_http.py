"""HTTP/1.1 as in RFC 9110 and RFC 9112, wherever clients, proxies or attackers depend on it."""

import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import IRIS, ONE_PROCESS, Server, events, serving, until
from tests.support.wire import ROW, Answer, answer, answers, ask, connect, first_answers, request

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
MAX_IDLE = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the iris model in one process."""
    with serving(tmp_path_factory.mktemp("server"), IRIS, command=ONE_PROCESS) as server:
        yield server
        assert server.metric("bentoml_service_request_in_progress") == 0
        assert not [line for line in events(server.log) if line["event"] in ("crashed", "request_failed", "message")][
            1:
        ]


def all_answers(server: Server, sent: bytes) -> list[Answer]:
    """Return all answers until the server closes the connection."""
    with connect(server) as connection:
        connection.sendall(sent)
        return list(answers(connection))


def chunked(*, trailers: bytes = b"", head: bytes = b"") -> bytes:
    """Return a prediction request with a chunked body."""
    return (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%b\r\n" % head
        + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(ROW), ROW, trailers)
    )


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", 400, "0 Host headers; expected one"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, "2 Host headers; expected one"),
        (b"GET /livez HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400, "2 Host headers"),
        (b"GET /livez HTTP/0.9\r\nHost: x\r\n\r\n", 505, "HTTP 0.9 is not supported"),
        (b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n", 505, "HTTP 2.0 is not supported"),
        (b"GET /livez\r\n\r\n", 505, "HTTP 0.9 is not supported"),
        (
            request(head=b"X: y\r\n").replace(b"Content-Length: 32", b"Content-Length: " + b"0" * 4299 + b"5"),
            400,
            "digits",
        ),
        (request().replace(b"Content-Length: 32", b"Content-Length: +32"), 400, "not valid HTTP/1.1"),
        (chunked(trailers=b"Connection: close\r\n"), 400, "The trailer 'connection'"),
        (chunked(trailers=b"Content-Length: 5\r\n"), 400, "not valid HTTP/1.1"),
    ],
)
def test_invalid_http_is_refused_and_closed(server: Server, sent: bytes, status: int, words: str) -> None:
    [refused] = all_answers(server, sent + LIVEZ)
    assert (refused.status, refused.headers["connection"]) == (status, "close")
    assert words in refused.detail


def test_http_1_0_does_not_need_a_host_and_closes(server: Server) -> None:
    [answered] = all_answers(server, b"GET /livez HTTP/1.0\r\n\r\n")
    assert answered.status == 200


@pytest.mark.parametrize("first", [LIVEZ, request(), request(b'{"data": [[1]]}')])
def test_an_invalid_request_after_another_is_refused_at_once(server: Server, first: bytes) -> None:
    began = time.monotonic()
    answered, refused = all_answers(server, first + b"NOT HTTP\r\n\r\n")
    assert answered.status == (400 if b"[[1]]" in first else 200)
    assert (refused.status, "not valid HTTP/1.1" in refused.detail) == (400, True)
    assert time.monotonic() - began < 10


def test_close_next_to_an_upgrade_closes(server: Server) -> None:
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n"
    [answered] = all_answers(server, b"GET /health HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
    assert (answered.status, answered.headers["connection"]) == (200, "close")
    [answered] = all_answers(server, request(head=upgrade) + LIVEZ)
    assert (answered.status, answered.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("pause", [0, 0.1])
def test_trailers_are_not_headers(server: Server, pause: float) -> None:
    """Trailers are dropped, whether they arrive together with the body or later."""
    sent = chunked(trailers=b"Content-Type: text/plain\r\nX-Request-ID: trailer\r\n")
    at = sent.index(b"0\r\nContent-Type") if pause else len(sent)
    with connect(server) as connection:
        connection.sendall(sent[:at])
        time.sleep(pause)
        connection.sendall(sent[at:] + LIVEZ)
        predicted, alive = first_answers(connection, 2)
    assert (predicted.status, alive.status) == (200, 200)
    assert predicted.headers["x-request-id"] != "trailer"


@pytest.mark.parametrize("path", [b"/health", b"/label", b"/metadata", b"/livez", b"/metrics", b"/", b"/docs.json"])
def test_head_is_get_without_a_body(server: Server, path: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            got += connection.recv(1)
        connection.sendall(LIVEZ)
        assert answer(connection).status == 200  # no body was in between
    expected = ask(server, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    if path != b"/metrics":
        assert b"content-length: %d\r\n" % len(expected.body) in got


def test_head_of_a_post_route_is_refused(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"HEAD /predict HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("size", [65_000, 66_500])
@pytest.mark.parametrize("segment", [200, 1460, 8192, 1 << 20])
def test_the_limit_for_heads_does_not_depend_on_segments(server: Server, size: int, segment: int) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: "
    sent = request() + head + b"y" * (size - len(head)) + b"\r\n\r\n"
    with connect(server) as connection:
        with suppress(OSError):
            for start in range(0, len(sent), segment):
                connection.sendall(sent[start : start + segment])
        predicted, second = first_answers(connection, 2)
    assert (predicted.status, second.status) == (200, 200 if size < 65_536 else 431)


@pytest.mark.parametrize("head", [b"Content-Type: text/plain\r\n", b"Content-Encoding: gzip\r\n"])
@pytest.mark.parametrize("length", [len(ROW), 1_000_000_000])
def test_refusing_an_expectation_closes_the_connection(server: Server, head: bytes, length: int) -> None:
    """The server cannot know whether the client then sends the body or the next request."""
    [refused] = all_answers(server, request(b"", b"Expect: 100-continue\r\n" + head, length=length))
    assert (refused.status, refused.headers["connection"]) == (415, "close")


def test_a_refusal_before_a_small_body_keeps_the_connection(server: Server) -> None:
    sent = request(head=b"Content-Type: text/plain\r\n")
    with connect(server) as connection:
        connection.sendall(sent[: -len(ROW)])
        assert answer(connection).status == 415
        connection.sendall(sent[-len(ROW) :] + LIVEZ)
        assert answer(connection).status == 200


def test_idle_connections_are_kept(server: Server) -> None:
    """They stay open for more than 5 seconds: load balancers reuse connections that were idle for minutes."""
    with connect(server) as connection:
        connection.sendall(request())
        assert answer(connection).status == 200
        time.sleep(6)
        connection.sendall(request())
        assert answer(connection).status == 200


def test_idle_connections_are_bounded(tmp_path: Path) -> None:
    settings = {"KEEP_ALIVE_SECONDS": "3", "MAX_IDLE_CONNECTIONS": str(MAX_IDLE)}
    with serving(tmp_path, {**IRIS, **settings}, command=ONE_PROCESS) as server, ExitStack() as opened:
        silent = [opened.enter_context(connect(server)) for _ in range(MAX_IDLE + 2)]
        for connection in silent[:2]:
            assert connection.recv(1) == b""  # the longest idle are closed, though they never sent a request
        for connection in silent:
            connection.close()
        connections = []
        for _ in range(MAX_IDLE + 2):
            connections.append(connection := opened.enter_context(connect(server)))
            connection.sendall(LIVEZ)
            assert answer(connection).status == 200
        for connection in connections[:2]:
            assert connection.recv(1) == b""  # the longest idle are closed
        for connection in connections[2:]:
            connection.sendall(LIVEZ)
            assert answer(connection).status == 200
        began = time.monotonic()
        assert connections[2].recv(1) == b""
        assert 2 < time.monotonic() - began < 10


@pytest.mark.parametrize(
    "host",
    [b"", b"a b", b"a/../../predict", b"a?x", b"a#x", b"[::1", b"http://a", b"a@b:1:2"],
)
def test_a_malformed_host_does_not_change_the_route(server: Server, host: bytes) -> None:
    """Starlette CVE-2026-48710: a Host header must not change the path that is routed."""
    routes = {b"GET /health": 200, b"GET /nothing": 404, b"GET /predict": 405}
    for line, status in routes.items():
        answered = ask(server, b"%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (line, host))
        assert answered.status in (status, 400), (line, host)


class Exploit:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


PATHS = [
    *("/", "/predict", "/predict/label", "/health", "/label", "/metadata", "/livez", "/readyz", "/healthz", "/metrics"),
    *("/docs", "/docs.json", "/schema.json", "/static_content/x", "/predict/submit", "/predict/status", "/predict/get"),
    *("/predict/retry", "/predict/cancel", "/__rpc__", "/run", "/infer", "/v2/models/x/infer", "/api/v1/predict"),
]
KINDS = [
    *("application/vnd.bentoml+pickle", "application/vnd.bentoml.pickled", "application/x-pickle"),
    *("application/octet-stream", "application/json", "multipart/form-data; boundary=x", "text/plain"),
]
HEADER_SETS = [
    b"",
    b"Bento-Name: x\r\nRunner-Name: x\r\nBento-Version: 1\r\n",
    b"Payload-Container: PickledObjectContainer\r\nPayload-Meta: {}\r\nBatch-Size: 1\r\n",
]


def test_no_body_is_unpickled(server: Server, tmp_path: Path) -> None:
    """BentoML CVE-2024-2912, 2025-27520 and 2025-32375, for every path, content type and method."""
    exploited = tmp_path / "exploited"
    body = pickle.dumps(Exploit(exploited))
    sent = [
        b"%b %b HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
        % (method, path.encode(), kind.encode(), len(body), headers, body)
        for method in (b"POST", b"PUT", b"GET")
        for path in PATHS
        for kind in KINDS
        for headers in HEADER_SETS
    ]
    assert len(sent) == 3 * 24 * 7 * 3
    with connect(server) as connection:
        for one in sent:
            connection.sendall(one)
            assert answer(connection).status < 500, one
    assert not exploited.exists()


def test_a_small_chunked_body_in_tiny_pieces_is_answered(server: Server) -> None:
    sent = chunked()
    with connect(server) as connection:
        for start in range(len(sent)):
            connection.sendall(sent[start : start + 1])
        assert answer(connection).status == 200
        connection.sendall(LIVEZ)
        assert answer(connection).status == 200


def test_a_disconnect_during_an_inference_frees_its_slot(server: Server) -> None:
    body = b'{"data": [' + b"[5.1, 3.5, 1.4, 0.2]," * 100_000 + b"[5.1, 3.5, 1.4, 0.2]]}"
    for _ in range(4):
        with connect(server) as connection:
            connection.sendall(request(body))
            time.sleep(0.05)
    until(lambda: server.metric("bentoml_service_request_in_progress") == 0, 30)
