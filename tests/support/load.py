"""Clients that send requests continuously and record which accepted requests get no complete answer."""

import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from tests.support.wire import ROW, Served, answers, connect, request

_CLIENTS = 16
_MANY_ROWS = b'{"data": [' + b"[5.1, 3.5, 1.4, 0.2], " * 5000 + b"[5.1, 3.5, 1.4, 0.2]]}"


@dataclass
class Load:
    """The results of the clients.

    Attributes:
        answered: the number of accepted requests with a complete answer.
        broken: the failure of each accepted request without one.
        ended: set to stop the clients.
    """

    answered: int = 0
    broken: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, server: Served, body: bytes) -> None:
        """Send requests until the server accepts no more; 100 Continue means that it has accepted one."""
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

    def ask_on_one_connection(self, server: Served) -> None:
        """Send each request after the answer to the one before; every answer must be complete."""
        with connect(server) as connection:
            try:
                connection.sendall(request())
                for answer in answers(connection):
                    if answer.status != 200:
                        self.broken.append(f"status {answer.status}")
                    if self.ended.is_set():
                        return
                    connection.sendall(request())
            except OSError:  # the server closed the connection while it was idle
                return
            except EOFError as error:
                self.broken.append(repr(error))


def accepts(connection: socket.socket, head: bytes) -> bool:
    """Send the head of a request, and return whether the server answers with 100 Continue."""
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
def under_load(server: Served) -> Iterator[Load]:
    """Run clients against the server, and yield their results."""
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


@contextmanager
def flooding(connections: Sequence[socket.socket], sent: bytes, *, reads: bool) -> Iterator[list[socket.socket]]:
    """Send the bytes repeatedly on all connections, without waiting for answers.

    Yields:
        The connections that the server has closed.
    """
    ended: list[socket.socket] = []
    stop = threading.Event()

    def flood() -> None:
        with selectors.DefaultSelector() as selector:
            rest = dict.fromkeys(connections, sent)
            for connection in connections:
                connection.settimeout(0)
                selector.register(connection, selectors.EVENT_WRITE | (selectors.EVENT_READ if reads else 0))
            while not stop.is_set():
                for key, events in selector.select(0.1):
                    connection = cast("socket.socket", key.fileobj)
                    try:
                        if events & selectors.EVENT_WRITE:
                            rest[connection] = rest[connection][connection.send(rest[connection]) :] or sent
                        if events & selectors.EVENT_READ:
                            assert connection.recv(1 << 20)
                    except BlockingIOError:
                        pass
                    except OSError:
                        selector.unregister(connection)
                        ended.append(connection)

    client = threading.Thread(target=flood)
    client.start()
    try:
        yield ended
    finally:
        stop.set()
        client.join()
