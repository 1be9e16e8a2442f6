"""HTTP over plain sockets, for requests that no client library would send."""

import itertools
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

_ANSWER_SECONDS = 60
ROW = b'{"data": [[5.1, 3.5, 1.4, 0.2]]}'


class Served(Protocol):
    """A server on 127.0.0.1 with a client whose base URL has its port."""

    client: httpx.Client


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        status: HTTP status code.
        headers: the headers by lowercase name.
        body: the body, as long as Content-Length says.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        """The sentence of an error, which must have the common error format."""
        assert self.headers["content-type"] == "application/json"
        document: dict[str, Any] = json.loads(self.body)
        assert list(document) == ["detail"]
        assert "\n" not in document["detail"]
        return str(document["detail"])


def connect(server: Served) -> socket.socket:
    """Return a new connection to the server."""
    return socket.create_connection(("127.0.0.1", server.client.base_url.port or 0), timeout=_ANSWER_SECONDS)


def request(body: bytes = ROW, head: bytes = b"", path: bytes = b"/predict", length: int | None = None) -> bytes:
    """Return the bytes of a POST.

    Args:
        body: the body.
        head: lines to add to the head, each with its line end.
        path: the request target.
        length: the Content-Length, if it differs from the length of the body.
    """
    promised = len(body) if length is None else length
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (path, promised, head, body)


def answers(connection: socket.socket) -> Iterator[Answer]:
    """Yield the answers on a connection until it is closed.

    Raises:
        EOFError: the connection was closed in the middle of an answer.
    """
    with connection.makefile("rb") as stream:
        while line := stream.readline():
            headers = {}
            while (header := stream.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            promised = int(headers.get("content-length", 0))
            body = stream.read(promised)
            if header == b"" or len(body) < promised:
                raise EOFError(f"{line!r} was followed by {headers} and {len(body)} bytes")
            yield Answer(int(line.split()[1]), headers, body)


def answer(connection: socket.socket) -> Answer:
    """Return the next answer."""
    return next(answers(connection))


def ask(server: Served, sent: bytes) -> Answer:
    """Send the bytes on a new connection, and return the first answer."""
    with connect(server) as connection:
        connection.sendall(sent)
        return answer(connection)


def first_answers(connection: socket.socket, count: int) -> list[Answer]:
    """Return the next `count` answers, or fewer if the connection closes."""
    return list(itertools.islice(answers(connection), count))
