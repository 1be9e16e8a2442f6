"""The state that all connections of a server share, and the interface of that server."""

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


class ConnectionServer(Protocol):
    """The server that connections belong to.

    Attributes:
        app: the ASGI application for all requests except predictions.
        connections: all open connections; each adds and removes itself.
        tasks: the tasks that run the application.
        root_path: the path that the application is mounted at.
        state: the state that the application's lifespan provides to requests.
    """

    app: ASGIApp
    connections: set[Any]
    tasks: set[asyncio.Task[None]]
    root_path: str
    state: dict[str, Any]

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every response; a new list object whenever they change."""

    def websocket(self) -> asyncio.Protocol | None:
        """Return a protocol for a WebSocket connection; None if the server does not support WebSockets."""


class Connections:
    """All connections of a server and the state they share; it closes connections that exceed a time limit.

    One sweep checks all connections twice a second, so that no request needs a timer.

    Args:
        endpoints: the endpoints that answer predictions directly, by request target.
        observer: identifies, counts and logs requests.
        admission: limits the requests in flight.
        settings: the time limits for requests and idle connections, and the maximum number of idle connections.
    """

    def __init__(
        self, endpoints: Mapping[bytes, Endpoint], observer: Observer, admission: Admission, settings: Settings
    ) -> None:
        self.endpoints = endpoints
        self.observer = observer
        self.admission = admission
        self.timeout = settings.request_timeout_seconds
        self.idle: dict[Connection, None] = {}  # ordered, the longest idle first
        self._idle_seconds = settings.keep_alive_seconds
        self._max_idle = settings.max_idle_connections
        self._all: set[Connection] = set()
        self._is_sweeping = False
        self._default_headers: object = None
        self._ok = b""

    def ok_head(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the head of an answer with status 200, up to the value of Content-Length, without Content-Type."""
        if default_headers is not self._default_headers:
            self._default_headers = default_headers
            lines = (b"HTTP/1.1 200 OK", *(b"%b: %b" % header for header in default_headers))
            self._ok = b"\r\n".join((*lines, b"content-length: "))
        return self._ok

    def add(self, connection: "Connection") -> None:
        """Include a connection in the sweeps; it is idle until its first bytes arrive."""
        self._all.add(connection)
        self.mark_idle(connection)
        if not self._is_sweeping:
            self._sweep_later()

    def remove(self, connection: "Connection") -> None:
        """Remove a connection from the sweeps."""
        self._all.discard(connection)
        self.idle.pop(connection, None)

    def mark_idle(self, connection: "Connection") -> None:
        """Mark a connection as idle, and close the longest idle one if there are too many."""
        self.idle[connection] = None
        if len(self.idle) > self._max_idle:
            next(iter(self.idle)).close()

    def _sweep_later(self) -> None:
        self._is_sweeping = True
        asyncio.get_running_loop().call_later(min(_SWEEP_SECONDS, self.timeout / 4), self._sweep)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self._all):
            connection.check_timeouts(now, self.timeout, self._idle_seconds)
        self._is_sweeping = False
        if self._all:
            self._sweep_later()
