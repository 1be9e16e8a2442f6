"""What all connections of a server share, and the server that they belong to."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp

from model_server.http.admission import Admission
from model_server.http.endpoint import Endpoint
from model_server.observability.observer import Observer
from model_server.settings import Settings

if TYPE_CHECKING:
    from model_server.http.connection import Connection

_SWEEP_SECONDS = 0.5


class Host(Protocol):
    """The server that connections belong to.

    Attributes:
        app: answers what is not answered from the bytes of a connection.
        connections: all that are open; each adds and removes itself.
        tasks: those that run the application.
        root_path: the path that the application is mounted at.
        state: what the application's lifespan has left for its requests.
    """

    app: ASGIApp
    connections: set[Any]
    tasks: set[asyncio.Task[None]]
    root_path: str
    state: dict[str, Any]

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every response; another list when they have changed."""

    def websocket(self) -> asyncio.Protocol | None:
        """Return a protocol for a connection that asks for a WebSocket; None if there is none."""


class Connections:
    """What all connections of a server share; it closes those that are idle or late.

    One sweep checks all of them twice a second, so that a request needs no timer.

    Args:
        endpoints: what answers predictions from the bytes of a connection, by the request's target.
        observer: names, counts and logs requests.
        admission: says how many requests may be in flight.
        settings: say how long and how large a request may be, and how long and how many connections may be idle.
    """

    def __init__(
        self, endpoints: Mapping[bytes, Endpoint], observer: Observer, admission: Admission, settings: Settings
    ) -> None:
        self.endpoints = endpoints
        self.observer = observer
        self.admission = admission
        self.timeout = settings.request_timeout_seconds
        self.idle: dict[Connection, None] = {}  # the one that has been idle longest comes first
        self._idle_seconds = settings.keep_alive_seconds
        self._max_idle = settings.max_idle_connections
        self._all: set[Connection] = set()
        self._is_sweeping = False
        self._default_headers: object = None
        self._ok = b""

    def ok(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the head of an answer with status 200 in JSON, up to the value of its Content-Length."""
        if default_headers is not self._default_headers:
            self._default_headers = default_headers
            lines = (b"HTTP/1.1 200 OK", *(b"%b: %b" % header for header in default_headers))
            self._ok = b"\r\n".join((*lines, b"content-type: application/json", b"content-length: "))
        return self._ok

    def add(self, connection: "Connection") -> None:
        """Watch a connection."""
        self._all.add(connection)
        if not self._is_sweeping:
            self._sweep_later()

    def remove(self, connection: "Connection") -> None:
        """Forget a connection."""
        self._all.discard(connection)
        self.idle.pop(connection, None)

    def rest(self, connection: "Connection") -> None:
        """Take note that a connection is idle, and close the oldest that is, if there are too many."""
        self.idle[connection] = None
        if len(self.idle) > self._max_idle:
            next(iter(self.idle)).close()

    def _sweep_later(self) -> None:
        self._is_sweeping = True
        asyncio.get_running_loop().call_later(min(_SWEEP_SECONDS, self.timeout / 4), self._sweep)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self._all):
            connection.check_time(now, self.timeout, self._idle_seconds)
        self._is_sweeping = False
        if self._all:
            self._sweep_later()
