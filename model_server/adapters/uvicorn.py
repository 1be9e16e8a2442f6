"""Private uvicorn APIs: connection creation and shared state."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from model_server.http.connection import Connection
from model_server.http.connections import Connections

_LISTENERS = 16
_CANCEL_SECONDS = 0.2  # before uvicorn's own timeout


class Server(uvicorn.Server):
    """A uvicorn server with several listeners on its socket.

    libuv accepts one connection per listener before it reads from all open connections: under full load, new
    connections, including those from probes, would wait for seconds.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and start to serve."""
        await super().startup([listener.dup() for listener in sockets or () for _ in range(_LISTENERS)])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for requests in flight, and answer predictions that are not done in time with an error."""
        seconds = self.config.timeout_graceful_shutdown
        if seconds is not None:
            asyncio.get_running_loop().call_later(max(0, seconds - _CANCEL_SECONDS), self._cancel)
        await super().shutdown(sockets)

    def _cancel(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.cancel()


class _Host:
    """The uvicorn state that connections use; see `model_server.http.connections.ConnectionServer`."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: uvicorn.server.ServerState,
        app_state: dict[str, Any],
        *,
        takes_websockets: bool,
    ) -> None:
        self.app: ASGIApp = config.loaded_app
        self.root_path = config.root_path
        self.state = app_state
        self.connections: set[Any] = server_state.connections
        self.tasks = server_state.tasks
        self._server_state = server_state
        self._make_websocket: Callable[[], asyncio.Protocol] | None = None
        if takes_websockets and config.ws_protocol_class:
            protocol: Callable[..., asyncio.Protocol] = config.ws_protocol_class
            self._make_websocket = partial(protocol, config=config, server_state=server_state, app_state=app_state)

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._server_state.default_headers

    def websocket(self) -> asyncio.Protocol | None:
        return self._make_websocket() if self._make_websocket else None


def protocol_factory(shared: Connections, *, takes_websockets: bool) -> Callable[..., Connection]:
    """Return a connection factory for uvicorn: the HTTP protocol of its `Config`.

    Args:
        shared: the state that all connections share.
        takes_websockets: whether the application may have WebSocket routes.
    """
    hosts: dict[int, _Host] = {}

    def make(
        config: uvicorn.Config,
        server_state: uvicorn.server.ServerState,
        app_state: dict[str, Any],
        _loop: object = None,
    ) -> Connection:
        host = hosts.get(id(server_state))
        if host is None:
            host = hosts[id(server_state)] = _Host(config, server_state, app_state, takes_websockets=takes_websockets)
        return Connection(shared, host)

    return make


def serve(app: ASGIApp, listener: socket.socket, factory: Callable[..., Any], timeout_graceful_shutdown: int) -> None:
    """Serve an application in this process, until SIGTERM or SIGINT.

    Args:
        app: the application.
        listener: a listening socket.
        factory: creates the connections.
        timeout_graceful_shutdown: seconds after the signal within which requests in flight must complete.
    """
    config = uvicorn.Config(
        app,
        http=factory,  # type: ignore[arg-type]
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=timeout_graceful_shutdown,
    )
    Server(config).run(sockets=[listener])


def replace_default_server(factory: Callable[..., Any]) -> None:
    """Make uvicorn servers that other code creates in this process, such as BentoML's worker, use our classes."""
    from uvicorn.config import HTTP_PROTOCOLS  # noqa: PLC0415 (only needed in BentoML's workers)

    HTTP_PROTOCOLS["auto"] = factory  # type: ignore[assignment]
    uvicorn.Server = Server  # type: ignore[misc]
