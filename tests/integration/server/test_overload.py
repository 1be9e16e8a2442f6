"""Overload, slow clients and a slow model."""

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from model_server.settings import processors
from tests.support.processes import IRIS, ONE_PROCESS, SERVICES, Server, children, serving, until
from tests.support.wire import ROW, answer, answers, connect, first_answers, request

GATED_ROWS = [[9, 9, 9, 9], [1, 1, 1, 1]]  # two rows go to a thread, which waits while the gate file exists
TIMEOUT = 2


@contextmanager
def gated_server(home: Path, *options: str, **environment: str) -> Iterator[tuple[Server, Path]]:
    """Serve a model that does not answer `GATED_ROWS` while the gate file exists.

    Yields:
        The server, and the path of the gate file.
    """
    gate = home / "gate"
    gate.touch()
    environment = {**IRIS, **SERVICES, **environment, "GATE": str(gate)}
    with serving(home, environment, "gated:Gated", (*ONE_PROCESS, *options)) as server:
        yield server, gate


def ask_gated(server: Server) -> int:
    return server.client.post("/predict", json={"data": GATED_ROWS}).status_code


def ask_gated_until_taken(server: Server) -> int:
    """Return the status of a request that got a slot: a single-row request may occupy the last one for a moment."""
    while (status := ask_gated(server)) == 503:
        pass
    return status


def ask_one(server: Server) -> int:
    return server.client.post("/predict", json={"data": [[5.1, 3.5, 1.4, 0.2]]}).status_code


def count(server: Server, endpoint: str, status: int) -> int:
    wanted = f'bentoml_service_request_total{{endpoint="{endpoint}",http_response_code="{status}",'
    lines = server.client.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(wanted))


def test_requests_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    limit = processors() + 2
    with (
        gated_server(tmp_path, MAX_REQUESTS_IN_FLIGHT=str(limit), REQUEST_TIMEOUT_SECONDS="60") as (server, gate),
        ThreadPoolExecutor(limit) as clients,
        ExitStack() as slow,
    ):
        [name] = server.client.get("/v2/models").json()["models"]
        for _ in range(2 * limit):  # requests that wait for their clients do not count
            connection = slow.enter_context(connect(server))
            connection.sendall(request(length=1000))
            slow.enter_context(connect(server))
            assert ask_one(server) == 200  # one at a time: each counts for a moment
        accepted = [clients.submit(ask_gated_until_taken, server) for _ in range(limit)]
        until(lambda: ask_one(server) == 503)
        for path in ("/livez", "/readyz", "/healthz", "/health", "/metrics", f"/v2/models/{name}/ready"):
            assert server.client.get(path).status_code == 200
        for sent in (request(), request(path=b"/nothing")):
            with connect(server) as connection:
                connection.sendall(sent + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                busy, alive = first_answers(connection, 2)
            assert (busy.status, busy.headers["retry-after"]) == (503, "1")
            assert "send this one again later" in busy.detail
            assert alive.status == 200
        with connect(server) as asking:
            asking.sendall(request(b"", head=b"Expect: 100-continue\r\n", length=len(ROW)))
            [busy] = answers(asking)
            assert (busy.status, busy.headers["connection"]) == (503, "close")
        with connect(server) as hasty:  # a client that does not wait for answers
            hasty.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + 3000 * request())
            first, *others = (one.status for one in first_answers(hasty, 3001))
            assert (first, others) == (200, [503] * 3000)
        gate.unlink()
        assert [one.result() for one in accepted] == [200] * limit
        until(lambda: ask_one(server) == 200)
        assert count(server, "/predict", 503) >= 3000
        assert count(server, "other", 503) == 1


def test_timeouts(tmp_path: Path) -> None:
    threads = processors()
    with (
        gated_server(tmp_path, REQUEST_TIMEOUT_SECONDS=str(TIMEOUT)) as (server, gate),
        ThreadPoolExecutor(threads + 2) as clients,
        ExitStack() as opened,
    ):
        heads = opened.enter_context(connect(server))
        bodies = opened.enter_context(connect(server))
        silent = opened.enter_context(connect(server))
        before = sockets(server.process.pid).total()
        requests = b"GET /static_content/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20
        for last in (b"", request(body=b"", length=len(ROW))):  # from clients that read no answers
            opened.enter_context(connect(server)).sendall(requests + last)
        heads.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        bodies.sendall(request(body=b"", length=len(ROW)))
        trickles = [clients.submit(trickle, connection) for connection in (heads, bodies)]
        refused = [answer(connection) for connection in (heads, bodies)]
        assert [one.status for one in refused] == [408, 408]
        assert all("did not arrive within 2 seconds" in one.detail for one in refused)
        assert silent.recv(1) == b""
        for one in trickles:
            one.result()
        assert count(server, "other", 408) == 1

        # Some occupy the threads, the others wait for one.
        late = [clients.submit(ask_gated, server) for _ in range(threads + 2)]
        assert [one.result() for one in late] == [504] * (threads + 2)
        assert count(server, "/predict", 504) == threads + 2
        until(lambda: server.client.get("/readyz").status_code == 503)
        assert "exceeded their time limit occupy all threads" in server.client.get("/readyz").json()["detail"]
        [name] = server.client.get("/v2/models").json()["models"]
        assert server.client.get(f"/v2/models/{name}/ready").status_code == 503
        assert server.client.get("/livez").status_code == 200  # it may just take a while
        until(lambda: server.client.get("/livez").status_code == 503, seconds=20)
        assert ask_one(server) == 200  # needs no thread
        gate.unlink()
        until(lambda: server.client.get("/readyz").status_code == 200)
        assert ask_gated(server) == 200

        until(lambda: sockets(server.process.pid).total() <= before)
        # The client that reads no answers may reach the time limit of its body first.
        assert count(server, "/predict", 408) in (1, 2)
        assert server.metric("model_server_refused_total", reason="unread") == 2


def test_an_endless_inference_ends_with_the_server(tmp_path: Path) -> None:
    with (
        gated_server(tmp_path, "--timeout-graceful-shutdown", "1") as (server, gate),
        ThreadPoolExecutor(1) as client,
    ):
        answered = client.submit(ask_gated, server)
        until(gate.with_name("begun").exists)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
        assert answered.result() == 503


def sockets(process: int) -> Counter[str]:
    """Return how many descriptors the process has for each of its sockets."""
    held: Counter[str] = Counter()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # it may have been closed in the meantime
            held[str(descriptor.readlink())] += 1
    return Counter({name: count for name, count in held.items() if name.startswith("socket:")})


def trickle(connection: socket.socket) -> None:
    """Send a byte every 0.1 s until the server closes the connection."""
    with suppress(OSError):
        while True:
            connection.sendall(b" ")
            time.sleep(0.1)


def test_many_connections_are_accepted_at_once(iris: Server) -> None:
    """Each listener accepts one connection before open ones are read: with one listener, new ones would queue."""
    [worker] = children(iris.process.pid)
    with connect(iris):
        assert sockets(worker).most_common(1)[0][1] > 8


def test_a_thousand_idle_connections_do_no_harm(iris: Server) -> None:
    with ExitStack() as opened:
        for number in range(1000):
            connection = opened.enter_context(connect(iris))
            if number % 2:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answered: list[int] = []
        clients = [threading.Thread(target=lambda: answered.append(ask_one(iris))) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert answered == [200] * 8
