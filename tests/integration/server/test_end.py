"""How the server ends: told to under full load, or killed, it or a part of it."""

import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.nightly import NIGHTLY
from tests.support.processes import BENTOML_SERVE, IRIS, ONE_PROCESS, ROOT, Server, children, serving, until
from tests.support.wire import ROW, answers, connect, request

_ROUNDS = 20 if NIGHTLY else 1
_CLIENTS = 16
_MANY_ROWS = b'{"data": [' + b"[5.1, 3.5, 1.4, 0.2], " * 5000 + b"[5.1, 3.5, 1.4, 0.2]]}"


@dataclass
class Load:
    """What clients have seen.

    Attributes:
        answered: requests that were accepted and answered whole.
        broken: what became of those that were accepted and not answered whole.
        ended: told to send no more.
    """

    answered: int = 0
    broken: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, server: Server, body: bytes) -> None:
        """Send requests until the server takes no more; it has accepted one when it asks for its body."""
        while not self.ended.is_set():
            try:
                connection = connect(server)
            except OSError:
                return
            with connection:
                if not accepts(connection, request(body, head=b"Expect: 100-continue\r\n")[: -len(body)]):
                    return
                try:
                    connection.sendall(body)
                    status = next(answers(connection)).status
                except (OSError, EOFError, StopIteration) as error:
                    self.broken.append(repr(error))
                else:
                    if status == 200:
                        self.answered += 1
                    else:
                        self.broken.append(f"status {status}")

    def ask_on_one_connection(self, server: Server) -> None:
        """Send one request after the other, each when the one before it is answered; no answer may be cut."""
        with connect(server) as connection:
            try:
                connection.sendall(request())
                for answer in answers(connection):
                    if answer.status != 200:
                        self.broken.append(f"status {answer.status}")
                    if self.ended.is_set():
                        return
                    connection.sendall(request())
            except OSError:  # the server closed it while it was idle
                return
            except EOFError as error:
                self.broken.append(repr(error))


def accepts(connection: socket.socket, head: bytes) -> bool:
    """Send the head of a request, and return whether the server asks for the body."""
    got = b""
    try:
        connection.sendall(head)
        while not got.endswith(b"\r\n\r\n"):
            if not (byte := connection.recv(1)):
                return False
            got += byte
    except OSError:
        return False
    return got == b"HTTP/1.1 100 Continue\r\n\r\n"


@contextmanager
def under_load(server: Server) -> Iterator[Load]:
    """Give what clients see that ask all the time."""
    load = Load()
    bodies = [ROW, ROW, ROW, _MANY_ROWS]
    clients = [
        *(threading.Thread(target=load.ask, args=(server, bodies[number % 4])) for number in range(_CLIENTS)),
        *(threading.Thread(target=load.ask_on_one_connection, args=(server,)) for _ in range(_CLIENTS)),
    ]
    for client in clients:
        client.start()
    try:
        yield load
    finally:
        load.ended.set()
        for client in clients:
            client.join()


@pytest.mark.parametrize("_round", range(_ROUNDS))
@pytest.mark.parametrize("command", [BENTOML_SERVE, ONE_PROCESS], ids=["bentoml serve", "one process"])
def test_what_was_accepted_is_answered(tmp_path: Path, command: Sequence[str], _round: int) -> None:
    with serving(tmp_path, IRIS, command=command) as server, under_load(server) as load:
        until(lambda: load.answered > 100, 60)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
    assert load.broken == []


def test_no_worker_outlives_its_process_manager(tmp_path: Path) -> None:
    with serving(tmp_path, IRIS) as server:
        [worker] = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker))
        with pytest.raises(httpx.TransportError):
            server.client.get("/readyz")


def is_zombie(process: int) -> bool:
    """Return whether it has ended, and nobody has asked for its status."""
    return "State:\tZ" in Path(f"/proc/{process}/status").read_text()


CRASHING = """
import ctypes

from model_server.classifier import Classifier
from service import ModelLoadServer

probabilities = Classifier.probabilities

def crash(self, rows):
    if rows[0, 0] == 7:
        ctypes.string_at(0)  # as a faulty kernel of ONNX Runtime would
    return probabilities(self, rows)

Classifier.probabilities = crash
"""


def test_a_crash_in_the_model_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving(tmp_path, environment, "crashing:ModelLoadServer", ONE_PROCESS) as server:
        with pytest.raises(httpx.TransportError):
            server.predict([[7, 7, 7, 7]])
        assert server.process.wait(timeout=10) == -signal.SIGSEGV
        with pytest.raises(httpx.TransportError):
            server.client.get("/readyz")
