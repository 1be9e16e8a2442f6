"""HTTP by hand: what no client library would send."""

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
    """What has a client that knows where it listens, on 127.0.0.1."""

    client: httpx.Client


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status code.
        headers: by their names in small letters.
        body: as many bytes as the headers promise.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        """The sentence of an error, which must have the one shape."""
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
        body: what to send.
        head: lines to add to the head, each with its end.
        path: what to send it to.
        length: the Content-Length, if it is not that of the body.
    """
    promised = len(body) if length is None else length
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (path, promised, head, body)


def answers(connection: socket.socket) -> Iterator[Answer]:
    """Yield what is answered on a connection until it is closed.

    Raises:
        EOFError: it was closed in the middle of an answer.
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
    """Send the bytes on a new connection, which nothing follows, and return the first answer."""
    with connect(server) as connection:
        connection.sendall(sent)
        return answer(connection)


def first_answers(connection: socket.socket, count: int) -> list[Answer]:
    """Return the next answers, no more than so many."""
    return list(itertools.islice(answers(connection), count))
