"""Every error on every route has the correct status and the body `{"detail": "<one sentence>"}`."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import wire
from tests.support.processes import IRIS, ONE_PROCESS, ROOT, SERVICES, Server, events, serving, until
from tests.support.wire import answer, ask, connect, first_answers, request

PREDICTIONS = ["/predict", "/predict/label"]
JSON = {"content-type": "application/json"}
ROW = b"[5.1, 3.5, 1.4, 0.2]"


def check(response: httpx.Response, status: int, sentence: str = "") -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["detail"]
    assert sentence in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


@pytest.mark.parametrize("route", PREDICTIONS)
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is not valid JSON: "),
        (b"{", "The body is not valid JSON: "),
        (b'{"data": [[NaN, 1, 1, 1]]}', "The body is not valid JSON: "),
        (b'{"data": [[1e999, 1, 1, 1]]}', "The body is not valid JSON: "),
        (b"{}", 'The field "data" is missing'),
        (b'{"data": [' + ROW + b'], "more": 1}', "The field 'more' is unknown"),
        (b'{"data": "rows"}', "data is a string"),
        (b'{"data": []}', "data is empty"),
        (b'{"data": [[]]}', "data[0] has length 0; expected 4 numbers."),
        (b'{"data": ' + ROW + b"}", "data[0] is 5.1; expected a list of 4 numbers."),
        (b'{"data": [[' + ROW + b"]]}", "data[0] has length 1; expected 4 numbers."),
        (b'{"data": [' + ROW + b", [1, 2, 3]]}", "data[1] has length 3; expected 4 numbers."),
        (b'{"data": [[1, 2, 3, "4"]]}', "data[0][3] is a string"),
        (b'{"data": [[1, 2, 3, true]]}', "data[0][3] is a boolean"),
        (b'{"data": [[1, 2, 3, null]]}', "data[0][3] is null"),
        (b'{"data": [[1, 2, 3, 1e39]]}', "data[0][3] is 1e+39"),
    ],
)
def test_bad_request(iris: Server, route: str, body: bytes, sentence: str) -> None:
    check(iris.client.post(route, content=body, headers=JSON), 400, sentence)


@pytest.mark.parametrize("route", PREDICTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/vnd.bentoml+pickle"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_unsupported_media_type(iris: Server, route: str, headers: dict[str, str]) -> None:
    response = iris.client.post(route, content=b'{"data": [' + ROW + b"]}", headers=headers)
    check(response, 415, next(reversed(headers.values())))
    assert response.headers["accept"] == "application/json"


def in_chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


@pytest.mark.parametrize("route", PREDICTIONS)
def test_body_over_the_limit(iris: Server, route: str) -> None:
    body = b" " * (8 * 1024 * 1024) + b"1"
    check(iris.client.post(route, content=body, headers=JSON), 413, "larger than 8388608 bytes")
    check(iris.client.post(route, content=in_chunks(body), headers=JSON), 413, "larger than 8388608 bytes")
    assert iris.predict([[5.1, 3.5, 1.4, 0.2]], "/predict/label") == "setosa"


def test_body_at_the_limit(iris: Server) -> None:
    body = (b'{"data": [' + ROW + b"]}").ljust(8 * 1024 * 1024)
    assert iris.client.post("/predict/label", content=body, headers=JSON).json() == {"prediction": "setosa"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("route", ["/nothing", "/predict/labels", "/predict/%2e%2e/x"])
def test_unknown_route(iris: Server, method: str, route: str) -> None:
    check(iris.client.request(method, route), 404, f"There is no {method} /")


@pytest.mark.parametrize(
    ("method", "route", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("DELETE", "/predict/label", "POST"),
        ("POST", "/health", "GET"),
        ("POST", "/metadata", "GET"),
        ("PATCH", "/label", "GET"),
        ("POST", "/docs.json", "GET"),
        ("POST", "/readyz", "GET"),
        ("POST", "/", "GET"),
        ("POST", "/docs", "GET"),
    ],
)
def test_wrong_method(iris: Server, method: str, route: str, allowed: str) -> None:
    response = iris.client.request(method, route)
    check(response, 405, f"{method} {route} is not allowed; expected ")
    assert allowed in response.headers["allow"].split(", ")


@pytest.mark.parametrize(
    "request_line",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"\x16\x03\x01\x02\r\n\r\n",
    ],
)
def test_invalid_http(iris: Server, request_line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(iris.url).port or 0), timeout=30) as connection:
        connection.sendall(request_line)
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert list(json.loads(body)) == ["detail"]


WEBSOCKET = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
H2C = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize(
    "upgrade", [b"Connection: Upgrade\r\n" + WEBSOCKET, b"Connection: Upgrade, HTTP2-Settings\r\n" + H2C]
)
def test_an_upgrade_is_ignored(iris: Server, upgrade: bytes) -> None:
    upgrading = request(head=upgrade)
    with connect(iris) as connection:
        for part in (upgrading, upgrading[: -len(wire.ROW)], upgrading[-len(wire.ROW) :], upgrading, request()):
            connection.sendall(part)
            if part != upgrading[: -len(wire.ROW)]:
                assert answer(connection).status == 200
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
        assert answer(connection).status == 404
        connection.sendall(upgrading + upgrading)
        assert [one.status for one in first_answers(connection, 2)] == [200, 200]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model fails in every request."""
    with serving(tmp_path_factory.mktemp("broken"), {**IRIS, **SERVICES}, "broken:Broken", ONE_PROCESS) as server:
        yield server


def check_failure(server: Server, method: str, route: str) -> None:
    """Check that the log has the failure and the answer, with the same request id."""

    def logged() -> list[dict[str, Any]]:
        return [line for line in events(server.log) if line.get("method") == method and line["route"] == route]

    until(lambda: len(logged()) == 2)
    failure, answered = logged()
    assert (failure["event"], failure["level"]) == ("request_failed", "error")
    assert "RuntimeError: secret of the house" in failure["trace"]
    assert (answered["event"], answered["status"]) == ("request", 500)
    assert failure["request_id"] == answered["request_id"]


@pytest.mark.parametrize("route", PREDICTIONS)
def test_a_failure_is_only_in_the_log(broken: Server, route: str) -> None:
    check(broken.client.post(route, json={"data": [[5.1, 3.5, 1.4, 0.2]]}), 500, "its log says why")
    check_failure(broken, "POST", route)


@pytest.mark.parametrize("route", ["/broken", "/metrics"])
def test_a_failure_of_a_get_route_is_only_in_the_log(broken: Server, route: str) -> None:
    check(broken.client.get(route), 500, "its log says why")
    check_failure(broken, "GET", route)


SLOW = """
import time

from model_server.model.model import Model
from service import ModelLoadServer

predict = Model.predict

def slow(self, rows):
    if rows[0, 0] == 9:
        time.sleep(1)
    return predict(self, rows)

Model.predict = slow
init = Model.__init__

def estimate_slow(self, *arguments):
    init(self, *arguments)
    self.estimate_latency = lambda rows: rows - 1

Model.__init__ = estimate_slow
"""


def test_a_slow_inference_does_not_delay_others(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving(tmp_path, environment, "slow:ModelLoadServer", ONE_PROCESS) as server, ThreadPoolExecutor() as others:
        slow = others.submit(server.predict, [[9, 9, 9, 9]] * 2)
        answered = 0
        while not slow.done():
            assert server.client.get("/health").status_code == 200
            assert server.predict([[5.1, 3.5, 1.4, 0.2]], "/predict/label") == "setosa"
            answered += 1
        assert slow.result()
        assert answered >= 2


def test_the_body_limit_is_a_setting(tmp_path: Path) -> None:
    with serving(tmp_path, {**IRIS, "MAX_BODY_BYTES": "100"}, command=ONE_PROCESS) as server:
        check(server.client.post("/predict", content=b" " * 101, headers=JSON), 413, "larger than 100 bytes")
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        endless = ask(server, head + b"1\r\n{\r\n0\r\n" + b"X: y\r\n" * 300_000)
        expected = "The body has far more chunk headers or trailers than data; send larger chunks."
        assert (endless.status, endless.detail) == (413, expected)
