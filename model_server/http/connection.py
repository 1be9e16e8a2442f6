"""Connections: how much of the server one may take, and for how long."""

import asyncio
import socket
import struct
import sys
from http import HTTPStatus
from typing import Any, cast

import httptools
import uvicorn
from starlette.types import Scope
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from model_server.http.gateway import CUT, PROBES, Gateway, busy
from model_server.observability.observer import UNKNOWN, Header
from model_server.protocols.codec import encode
from model_server.settings import Settings

_MAX_HEAD_BYTES = 64 * 1024
_CHUNKED_BYTES = 8  # a body in chunks of one byte takes six times its size, and extensions and trailers take some
_SWEEP_SECONDS = 0.5
_LINGER_SECONDS = 1
_ACCEPTED_AT_ONCE = 16
_OF_UPGRADES = frozenset({b"connection", b"upgrade", b"http2-settings"})
_PATIENCE_SECONDS = 2  # the gateway's own timeout comes first, with an answer
_MAX_PARSED_BYTES = 2048  # parsed at once: at most a few dozen requests, and all of an ordinary one
_HEAD_END = b"\r\n\r\n"
_MIN_BYTES_PER_SECOND = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Server(uvicorn.Server):
    """uvicorn with more than one listener on its socket.

    libuv accepts one connection a listener before it reads from all that are there: under full load, new ones, those of
    probes too, would wait for seconds.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and start to serve."""
        await super().startup([one.dup() for one in sockets or () for _ in range(_ACCEPTED_AT_ONCE)])


class _MeteredTransport:
    """A transport that counts the bytes written to it.

    Attributes:
        sent: bytes that have left this process; the kernel or the client has them.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._written = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (any attribute of a transport)
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write the bytes."""
        self._written += len(data)
        self._transport.write(data)

    @property
    def sent(self) -> int:
        return self._written - self._transport.get_write_buffer_size()


class _FlowControl(FlowControl):
    """uvicorn's flow control, which resumes reading after every answer, except while requests are waiting.

    Attributes:
        is_held: whether reading stays paused.
    """

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with the bounds that it lacks: on time, on the head of a request, and on requests in flight.

    One sweep checks all connections twice a second, so that a request needs no timer. Bytes are parsed a request at a
    time: what a client sends ahead of the answers waits unparsed, and nothing more is read meanwhile.

    Args:
        gateway: knows how many requests are in flight, and counts those that it never sees.
        settings: say how long a request may take.
        options: uvicorn's own arguments.
    """

    _sweeping = False

    def __init__(self, gateway: Gateway, settings: Settings, **options: Any) -> None:  # noqa: ANN401 (uvicorn's)
        super().__init__(**options)
        self._gateway = gateway
        self._timeout = settings.request_timeout_seconds
        self._max_sent = _CHUNKED_BYTES * (settings.max_body_bytes + _MAX_HEAD_BYTES)
        self._since = self.loop.time()
        self._is_in_message = False
        self._is_in_head = False
        self._received = 0
        self._is_refused = False
        self._refusal: tuple[HTTPStatus, str] | None = None
        self.ws_protocol_class = None
        self._asks_upgrade = False
        self._upgrade_ends = 0
        self._waiting = b""
        self._parsed = 0  # bytes of those
        self._unread_since: float | None = None
        self._sent = 0  # bytes, by then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Watch the connection."""
        self._metered = _MeteredTransport(transport)
        super().connection_made(cast("asyncio.Transport", self._metered))
        self.flow = self._flow = _FlowControl(transport)
        if not Connection._sweeping:
            Connection._sweeping = True
            self._sweep_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the requests that nobody waits for any more."""
        self._waiting = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, or keep those that are for later requests than the current one."""
        if self._is_refused:
            return
        if len(data) <= _MAX_PARSED_BYTES and not self._waiting:
            self._parse(data)
            if self.pipeline:
                self._hold()
        else:
            self._waiting = self._waiting[self._parsed :] + data
            self._parsed = 0
            self._parse_waiting()

    def _parse_waiting(self) -> None:
        """Parse up to the end of the next request; the one after it has to wait for the answer."""
        while self._waiting and not self._is_refused and not self.transport.is_closing() and self._takes_bytes():
            start = self._parsed
            end = start + _MAX_PARSED_BYTES
            if not self._is_in_message or self._is_in_head:
                # The tail of the last piece may have the beginning of this mark.
                found = self._waiting.find(_HEAD_END, max(0, start - len(_HEAD_END) + 1), end)
                end = end if found < 0 else found + len(_HEAD_END)
            self._parsed = end
            piece = self._waiting[start:end]
            if end >= len(self._waiting):
                self._waiting = b""
            self._parse(piece)
        if self._is_refused or self.transport.is_closing():
            self._waiting = b""
        if self._waiting or self.pipeline:
            self._hold()
        elif self._flow.is_held:
            self._flow.is_held = False
            self._flow.resume_reading()

    def _takes_bytes(self) -> bool:
        """Return whether the current request is incomplete or answered."""
        return not self.pipeline and (self._is_in_message or not self.cycle or self.cycle.response_complete)

    def _hold(self) -> None:
        if not self._flow.is_held:
            self._flow.is_held = True
            self._flow.pause_reading()
            self._gateway.observer.telemetry.observe_hold()

    def _parse(self, data: bytes) -> None:
        """Parse the bytes, unless the head or what follows it has no end."""
        self._received += len(data)
        super().data_received(data)
        if self._asks_upgrade:
            self._read_without_upgrade(data[self._upgrade_ends :])
        if self._is_in_message and self._received > (_MAX_HEAD_BYTES if self._is_in_head else self._max_sent):
            self._refuse(*(_long_head() if self._is_in_head else _endless()))

    def on_message_begin(self) -> None:
        """Note when a request begins."""
        super().on_message_begin()
        self._since = self.loop.time()
        self._is_in_message = self._is_in_head = True

    def on_headers_complete(self) -> None:
        """Start to answer, unless the head is too large."""
        if self._received > _MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > _MAX_HEAD_BYTES:
                self._refusal = _long_head()
                raise ValueError("the head is too large")  # has the parser stop, and uvicorn call `send_400_response`
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            if self._asks_upgrade:
                raise ValueError("another upgrade is asked for before this one is answered")
            self._asks_upgrade = True
            return
        super().on_headers_complete()
        self._is_in_head = False
        self._received = 0

    def on_message_complete(self) -> None:
        """Note when the request is here."""
        if self._asks_upgrade and self.parser.should_upgrade():
            return
        self._is_in_message = False
        self._since = self.loop.time()
        self._received = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note when the answer was written; the client still has to read it."""
        if not self._is_in_message and not self._is_refused:
            self._since = self.loop.time()
        super().on_response_complete()
        if self._flow.is_held:
            self.loop.call_soon(self._parse_waiting)  # later, so that other connections have their turn

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's sentence)
        """Answer what is not HTTP, in place of uvicorn's plain text."""
        error = sys.exception()
        if error and isinstance(error.__context__, MemoryError):  # of a callback of the parser
            self._refusal = HTTPStatus.SERVICE_UNAVAILABLE, "The server has no memory for this request."
        self._refuse(*(self._refusal or (HTTPStatus.BAD_REQUEST, "The request is not valid HTTP/1.1.")))

    def _unsupported_upgrade_warning(self) -> None:
        error = sys.exception()
        if isinstance(error, httptools.HttpParserUpgrade):
            self._upgrade_ends = error.args[0]

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read a request as if it had not asked for another protocol, which a server may do (RFC 9110, section 7.8).

        The parser would leave out its body. Clients that would rather speak HTTP/2 ask for that with any request.
        """
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _OF_UPGRADES]
        version = self.parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._received = len(rest)
        super().data_received(b"".join([line, *kept, b"\r\n", rest]))
        self._asks_upgrade = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 (uvicorn's own kind)
        if self._is_refused:
            return
        gateway = self._gateway
        takes_place = cycle.scope["path"] not in PROBES
        # One of several in the pipeline is refused by the gateway: here, each would end in the start of the next.
        if takes_place and gateway.is_full and not self.pipeline:
            refusal = busy()
            cycle.response_started = cycle.response_complete = True
            request_id = self._observe(cycle.scope, refusal.status)
            self._write(
                refusal.status,
                refusal.detail,
                request_id,
                *refusal.headers,
                # A client that waits to be asked for the body may send it, or the next request.
                close=not cycle.keep_alive or cycle.waiting_for_100_continue,
                method=cycle.scope["method"],
            )
            self.on_response_complete()
            return
        gateway.in_flight += takes_place
        super()._start_asgi_task(cycle, app)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer what is no whole request, and close once what came before it is answered."""
        if self._is_refused:
            return
        cycle = self.cycle
        if self._is_in_message and not self._is_in_head:
            if cycle.response_complete:
                self._linger()
            elif cycle.response_started:
                self.transport.close()
            elif CUT not in cycle.scope:
                cycle.scope[CUT] = True  # type: ignore[literal-required]
                cycle.disconnected = True
                cycle.message_event.set()
                request_id = self._observe(cycle.scope, status)
                if not self.pipeline:  # else another is answered before it, and then there is nothing to say
                    self._write(status, detail, request_id, close=True)
        elif cycle and not cycle.response_complete:
            cycle.keep_alive = False
        elif not self.transport.is_closing():
            self._write(status, detail, self._observe({**UNKNOWN}, status), close=True)

    def _observe(self, scope: Scope | HTTPScope, status: int) -> Header:
        """Have a refusal counted and logged, and return the header that names the request."""
        observer = self._gateway.observer
        request = cast("Scope", scope)
        observer.observe(request, status, self.loop.time() - self._since)
        return observer.name(request)

    def _write(self, status: int, detail: str, *headers: Header, close: bool, method: str = "") -> None:
        body = encode({"detail": detail})
        lines = [
            b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            *(b"%b: %b" % header for header in headers),
            *([b"connection: close"] if close else []),
        ]
        self.transport.write(b"\r\n".join([*lines, b"", b"" if method == "HEAD" else body]))
        if close:
            self._linger()

    def _linger(self) -> None:
        """Say that this is the end, and close soon.

        To close with bytes unread would reset the connection, maybe before the client has read the answer.
        """
        self._is_refused = True
        self._since = self.loop.time() - self._timeout + _LINGER_SECONDS
        self.transport.write_eof()

    def _sweep_soon(self) -> None:
        self.loop.call_later(min(_SWEEP_SECONDS, self._timeout / 4), self._sweep)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            if isinstance(connection, Connection):
                connection._check_time(now)
        Connection._sweeping = bool(self.connections)
        if self.connections:
            self._sweep_soon()

    def _check_time(self, now: float) -> None:
        if self._is_refused or not self._metered.get_write_buffer_size():
            self._unread_since = None
            if now - self._since > self._timeout:
                self._end_if_late(now - self._since)
        elif self._unread_since is None or (
            self._metered.sent - self._sent >= _MIN_BYTES_PER_SECOND * (now - self._unread_since)
        ):
            self._unread_since = now
            self._sent = self._metered.sent
        elif now - self._unread_since > self._timeout:
            self._gateway.observer.observe_unread(now - self._unread_since)
            # With a reset: else the kernel would keep offering what it has.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def _end_if_late(self, seconds: float) -> None:
        is_answering = self.cycle and not self.cycle.response_complete
        is_stuck = is_answering and seconds > self._timeout + _PATIENCE_SECONDS
        if is_stuck or self._is_refused or self.transport.is_closing():
            self.transport.abort()
        elif self._is_in_message:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"The request was not here within {self._timeout:g} seconds.")
        elif not is_answering and not self.timeout_keep_alive_task:
            self.transport.close()  # it has never asked


def _long_head() -> tuple[HTTPStatus, str]:
    return (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"The path and the headers are larger than {_MAX_HEAD_BYTES} bytes together.",
    )


def _endless() -> tuple[HTTPStatus, str]:
    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body takes far more bytes than it holds."
