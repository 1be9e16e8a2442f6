"""Limits on the memory, time and slots that one connection can take from others."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.support.load import flooding
from tests.support.processes import IRIS, ONE_PROCESS, Server, serving, until
from tests.support.wire import connect, first_answers, request

MB = 1000**2
TIMEOUT = 2
FLOOD_SECONDS = 1
PIPELINED = 1000
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
MANY_ROWS = b'{"data": [' + b"[5,3,1,0]," * 200_000 + b"[5,3,1,0]]}"  # its answer has 12 MB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the iris model in one process, with a request timeout of two seconds."""
    environment = {**IRIS, "REQUEST_TIMEOUT_SECONDS": str(TIMEOUT)}
    with serving(tmp_path_factory.mktemp("server"), environment, command=ONE_PROCESS) as server:
        yield server


def small_window(server: Server, size: int = 4096) -> socket.socket:
    """Return a connection with a receive buffer of `size` bytes on the client's side."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.client.base_url.port or 0))
    return connection


@pytest.mark.parametrize("sent", [LIVEZ, request()], ids=["probe", "prediction"])
@pytest.mark.parametrize(("count", "limit"), [(1, 20 * MB), (100, 200 * MB)])
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
def test_flooding_connections_are_bounded(server: Server, sent: bytes, count: int, limit: int, *, reads: bool) -> None:
    before = server.resident_bytes()
    pauses = server.metric("model_server_read_pauses_total")
    with ExitStack() as opened:
        connections = [opened.enter_context(connect(server)) for _ in range(count)]
        with flooding(connections, sent * 2000, reads=reads):
            end = time.monotonic() + FLOOD_SECONDS
            while time.monotonic() < end:
                assert server.predict([[5.1, 3.5, 1.4, 0.2]], "/predict/label") == "setosa"
                assert server.resident_bytes() < before + limit
            until(lambda: server.metric("model_server_read_pauses_total") >= pauses + count)


def test_a_flooding_connection_that_reads_nothing_is_aborted(server: Server) -> None:
    unread = server.metric("model_server_refused_total", reason="unread")
    with small_window(server) as connection, flooding([connection], LIVEZ * 2000, reads=False) as ended:
        until(lambda: ended == [connection], 20)
    assert server.metric("model_server_refused_total", reason="unread") > unread


def test_requests_sent_ahead_are_answered_in_order(server: Server) -> None:
    ids = [b"%d" % number for number in range(PIPELINED)]
    sent = b"".join(request(head=b"X-Request-ID: %b\r\n" % request_id) for request_id in ids)
    with connect(server) as connection:
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        received = first_answers(connection, PIPELINED)
    assert {one.status for one in received} == {200}
    assert [one.headers["x-request-id"].encode() for one in received] == ids


def test_large_and_small_requests_sent_ahead_are_answered_in_order(server: Server) -> None:
    rows = [1, 3000, 1, 1, 500, 70, 1]
    bodies = [b'{"data": [' + b",".join([b"[5.1, 3.5, 1.4, 0.2]"] * count) + b"]}" for count in rows]
    with connect(server) as connection:
        threading.Thread(target=connection.sendall, args=(b"".join(map(request, bodies)),)).start()
        received = first_answers(connection, len(rows))
    assert [one.body.count(b"0.97") for one in received] == rows


def test_a_steady_reader_gets_the_whole_answer(server: Server) -> None:
    """It reads far more than 64 KiB per second, for several times the request timeout."""
    with small_window(server, 256 * 1024) as connection:
        began = time.monotonic()
        connection.sendall(request(MANY_ROWS))
        received = 0
        head = connection.recv(1000, socket.MSG_PEEK)
        size = head.index(b"\r\n\r\n") + 4 + int(head.lower().partition(b"content-length: ")[2].split()[0])
        while received < size:
            part = connection.recv(100_000)
            assert part
            received += len(part)
            time.sleep(max(0, began + 1 + received / (1.5 * MB) - time.monotonic()))
        assert time.monotonic() - began > 3 * TIMEOUT


def test_a_reader_of_just_over_64_kib_per_second_is_not_aborted(server: Server) -> None:
    """The kernel takes an answer in steps that such a reader needs several times the request timeout for."""
    rate = 72 * 1024
    with small_window(server) as connection:
        connection.sendall(request(MANY_ROWS))
        began = time.monotonic()
        received = 0
        while (seconds := time.monotonic() - began) < 5 * TIMEOUT:
            part = connection.recv(4096)
            assert part, f"the connection ended after {seconds:.1f} s"
            received += len(part)
            time.sleep(max(0, began + received / rate - time.monotonic()))


def test_a_slow_reader_is_aborted(server: Server) -> None:
    unread = server.metric("model_server_refused_total", reason="unread")
    with small_window(server) as connection:
        connection.sendall(request(MANY_ROWS))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        reads = 0
        with suppress(ConnectionResetError):
            while connection.recv(4096):
                reads += 1
                time.sleep(0.25)
        assert reads < 40
    assert server.metric("model_server_refused_total", reason="unread") > unread


def test_a_client_that_disconnects_is_counted(server: Server) -> None:
    left = server.metric("bentoml_service_request_total", http_response_code="499")
    with connect(server) as connection:
        connection.sendall(request(b"", length=100))
        until(lambda: server.metric("bentoml_service_request_in_progress") == 0)
    until(lambda: server.metric("bentoml_service_request_total", http_response_code="499") == left + 1)
