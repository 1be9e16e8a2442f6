"""HTTP/1.1 connections: parsing requests, writing answers, and limits on each client's memory and time."""

import asyncio
import contextvars
import socket
import struct
import sys
from collections import deque
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

import httptools

from model_server.http.asgi import RECORD
from model_server.http.connections import Connections, ConnectionServer
from model_server.http.cycle import Cycle
from model_server.http.endpoint import INLINE_BYTES, Endpoint
from model_server.http.errors import (
    CLIENT_CLOSED_REQUEST,
    RequestError,
    busy,
    error_body,
    no_memory,
    stopping,
    too_large,
)
from model_server.http.exchange import Exchange, Head
from model_server.prediction.batches import Entry
from model_server.protocols.protocol import Headers

if TYPE_CHECKING:
    from starlette.types import Scope

_MAX_HEAD_BYTES = 64 * 1024
_MAX_PARSED_BYTES = 2048  # parsed at once: an ordinary request fits, and a few dozen requests at most
_MAX_JOINED_BYTES = 16 * 1024  # a body up to this size is sent in one write with its head
_MAX_DISCARDED_BYTES = 64 * 1024
# One-byte chunks take six times the size of the body; chunk extensions and trailers take more.
_MAX_CHUNKED_FACTOR = 8
_MAX_LENGTH_DIGITS = 18
_JSON = b"content-type: application/json\r\n"
_HEAD_END = b"\r\n\r\n"
_MIN_BYTES_PER_SECOND = 64 * 1024
_LINGER_SECONDS = 1
_INT = struct.Struct("i")
_RESET = struct.pack("ii", 1, 0)
_NOT_IN_TRAILERS = frozenset({b"connection", b"content-length", b"host", b"transfer-encoding", b"upgrade"})
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Connection(asyncio.Protocol):
    """A connection, which answers one request at a time.

    It parses one request at a time: requests that a client sends ahead wait unparsed, and reading pauses until the
    current request is answered. A prediction starts when the last byte of its body arrives, without ASGI in between.

    Args:
        shared: the state that all connections share.
        host: the server that the connection belongs to.
    """

    def __init__(self, shared: Connections, host: ConnectionServer) -> None:
        self._shared = shared
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._state_since = self._loop.time()  # when the current state (idle, receiving, closing) began
        # Input.
        self._parser = httptools.HttpRequestParser(self)
        self._unparsed = b""  # bytes for later requests
        self._parsed = 0  # offset in `_unparsed`: bytes before it are parsed
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_in_head = False
        self._received = 0  # bytes received of the current head or body, with chunk headers and trailers
        self._body_size = 0
        self._length: int | None = None  # the request's Content-Length
        self._incoming: Exchange | None = None
        self._refusal: RequestError | None = None  # why the parser was stopped
        self._is_upgrade = False
        # Output.
        self._current: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._has_received_request = False
        self._is_closing = False  # further input is ignored
        self._has_backlog = False
        self._is_scheduled = False
        self._is_body_full = False
        self._is_reading_paused = False
        self._writable: asyncio.Event | None = None  # exists while the write buffer is full
        self._written = 0
        self._slow_since: float | None = None
        self._sent_at_slow_start = 0  # bytes received by the client up to `_slow_since`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        self.transport = cast("asyncio.Transport", transport)
        self._host.connections.add(self)
        self._shared.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """Unregister the connection and cancel its requests."""
        self._host.connections.discard(self)
        self._shared.remove(self)
        self._is_closing = True
        self._unparsed = b""
        self._queue.clear()
        self.resume_writing()
        exchange, self._current = self._current, None
        if exchange is None or exchange.is_answered:
            return
        if exchange.cycle:
            exchange.cycle.disconnect()
            return
        self._release(exchange)
        self._shared.observer.observe(exchange.record, CLIENT_CLOSED_REQUEST)

    def shutdown(self) -> None:
        """Close once the current request is answered; uvicorn calls this when it shuts down."""
        if self._current is None:
            self.transport.close()
        else:
            self._current.head.is_last = True

    def cancel(self) -> None:
        """Answer the current prediction with an error, since the time for draining is over."""
        exchange = self._current
        if exchange and exchange.job and exchange.endpoint and not exchange.is_answered:
            exchange.job.cancel()
            exchange.endpoint.fail(exchange.record, stopping(), partial(self._respond, exchange))

    def close(self) -> None:
        """Close after sending the bytes already written."""
        self._shared.idle.pop(self, None)
        self._is_closing = True
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, or keep them if they belong to later requests."""
        if self._is_closing:
            return
        self._shared.idle.pop(self, None)
        if len(data) <= _MAX_PARSED_BYTES and not self._unparsed and self._can_parse():
            self._parse(data)
            if self._queue or self._unparsed:
                self._parse_next()
        else:
            self._unparsed = self._unparsed[self._parsed :] + data
            self._parsed = 0
            self._parse_next()

    def pause_writing(self) -> None:
        """Hold back further answers, because the write buffer is full."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """Resume answering."""
        if self._writable:
            self._writable.set()
            self._writable = None
            if self._has_backlog:
                self._parse_later()

    def _can_parse(self) -> bool:
        """Return whether the next bytes belong to the current request, or a new request may begin."""
        return (self._current is None or not self._current.is_received) and not self._queue and not self._writable

    def _parse_later(self) -> None:
        """Parse the waiting bytes after the other connections have had their turn."""
        if not self._is_scheduled:
            self._is_scheduled = True
            # A separate context: the previous request's would stay in memory as long as requests follow each other.
            self._loop.call_soon(self._parse_next, context=self._context)

    def _parse_next(self) -> None:
        """Begin the next queued request, or parse up to the end of one."""
        self._is_scheduled = False
        if self._queue and self._current is None and not self._writable:
            self._begin(self._queue.popleft())
        while self._unparsed and not self._is_closing and self._can_parse():
            start = self._parsed
            end = start + _MAX_PARSED_BYTES
            if self._incoming is None:
                # The blank line that ends the head may begin in the previous part.
                found = self._unparsed.find(_HEAD_END, max(0, start - len(_HEAD_END) + 1), end)
                end = end if found < 0 else found + len(_HEAD_END)
            elif self._length is not None:
                end = start + self._length - self._body_size
            self._parsed = end
            part = self._unparsed[start:end]
            if end >= len(self._unparsed):
                self._unparsed = b""
            self._parse(part)
            if self._current is None:
                break  # a request was answered: other connections go first
        if self._is_closing:
            self._unparsed = b""
        elif self._current is None and (self._queue or self._unparsed) and not self._writable:
            self._parse_later()
        self._set_backlog(has_backlog=bool(self._unparsed or self._queue))

    def _set_backlog(self, *, has_backlog: bool) -> None:
        if has_backlog and not self._has_backlog:
            self._shared.observer.metrics.observe_read_pause()
        self._has_backlog = has_backlog
        self._update_reading()

    def read_body(self) -> None:
        """Resume reading, which pauses while a full buffer of the body waits for the application."""
        self._is_body_full = False
        self._update_reading()

    def _update_reading(self) -> None:
        is_paused = self._has_backlog or self._is_body_full
        if is_paused != self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = is_paused
            if is_paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._refusal is None:
                is_memory_error = isinstance(error.__context__, MemoryError)  # raised in a callback
                self._refusal = no_memory() if is_memory_error else _invalid("The request is not valid HTTP/1.1.")
            self._reject(self._refusal)
            return
        exchange = self._incoming
        if exchange and exchange.endpoint and exchange is self._current and not exchange.is_answered:
            self._await_body(exchange)
        if self._is_in_head:
            if self._received > _MAX_HEAD_BYTES + _MAX_PARSED_BYTES:
                self._reject(_head_too_large())
        elif exchange and self._received > _MAX_CHUNKED_FACTOR * (self._body_size + _MAX_HEAD_BYTES):
            self._reject(_body_padded())

    def on_message_begin(self) -> None:
        """Begin the head of a request."""
        self._state_since = self._loop.time()
        self._has_received_request = self._is_in_head = True
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """Append a part of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a header; trailers are checked and dropped."""
        name = name.lower()
        if self._is_in_head:
            self._headers.append((name, value))
        elif name in _NOT_IN_TRAILERS:
            raise self._stop_parser(_invalid(f"The trailer {name.decode()!r} belongs in the head."))

    def on_headers_complete(self) -> None:
        """Begin to answer the request, or queue it behind the current one."""
        method = self._parser.get_method()
        version = self._parser.get_http_version()
        if self._parser.should_upgrade() and method != b"CONNECT" and version == "1.1":
            if self._is_upgrade:
                raise self._stop_parser(_invalid("The request asks for two upgrades."))
            self._is_upgrade = True
            return
        head = Head(method, self._url, version, self._headers, is_last=not self._parser.should_keep_alive())
        if version != "1.1":
            head.is_last = True
        self._check(head)
        self._is_in_head = False
        self._received = self._body_size = 0
        length = head.by_name.get(b"content-length")
        self._length = None if length is None else int(length)
        endpoint = self._shared.endpoints.get(self._url) if method == b"POST" else None
        if endpoint:
            record = self._shared.observer.begin_known(method.decode(), endpoint.route, head.by_name)
        else:
            try:
                path = unquote(httptools.parse_url(self._url).path.decode("ascii"))
            except (httptools.HttpParserInvalidURLError, AttributeError, UnicodeDecodeError):
                raise self._stop_parser(_invalid("The request's target is not a valid URL.")) from None
            record = self._shared.observer.begin(method.decode(), path, head.by_name)
        self._incoming = exchange = Exchange(head, record, endpoint)
        if endpoint:
            exchange.refusal = endpoint.refusal(head.by_name, self._headers if head.has_duplicates else ())
        if self._current is None:
            self._begin(exchange)
        else:
            self._queue.append(exchange)

    def on_body(self, data: bytes) -> None:
        """Append a part of the body."""
        exchange = self._incoming
        if exchange is None:
            return
        self._body_size += len(data)
        if exchange.is_answered:
            return
        if exchange.cycle:
            if not exchange.cycle.feed(data):
                self._is_body_full = True
                self._update_reading()
            return
        if not exchange.body:
            exchange.body = data
        else:
            if isinstance(exchange.body, bytes):
                exchange.body = bytearray(exchange.body)
            exchange.body += data
        if exchange.endpoint and self._body_size > INLINE_BYTES:
            self._limit_body(exchange, exchange.endpoint, len(data))

    def on_message_complete(self) -> None:
        """Answer a prediction, now that its body is complete."""
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            return
        exchange.is_received = True
        self._received = 0
        if exchange.is_answered:
            self._next(exchange)
        elif exchange.cycle:
            exchange.cycle.finish_body()
        elif exchange is self._current and exchange.endpoint:
            self._predict(exchange, exchange.endpoint)

    def _check(self, head: Head) -> None:
        if head.version not in ("1.1", "1.0"):
            detail = f"HTTP {head.version} is not supported; expected HTTP/1.1."
            raise self._stop_parser(RequestError(detail, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, code="http-version"))
        # `_received` counts whole parts, not exactly the head: measure the head.
        if self._received > _MAX_HEAD_BYTES - _MAX_PARSED_BYTES:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size > _MAX_HEAD_BYTES:
                raise self._stop_parser(_head_too_large())
        hosts = int(b"host" in head.by_name)
        if head.has_duplicates:
            hosts = sum(name == b"host" for name, _ in self._headers)
        if hosts > 1 or (hosts == 0 and head.version == "1.1"):
            raise self._stop_parser(_invalid(f"The request has {hosts} Host headers; expected one."))
        if len(head.by_name.get(b"content-length", b"")) > _MAX_LENGTH_DIGITS:
            raise self._stop_parser(_invalid("The Content-Length has too many digits."))

    def _stop_parser(self, error: RequestError) -> ValueError:
        """Store the error, and return an exception that stops the parser when a callback raises it."""
        self._refusal = error
        return ValueError(error.detail)

    def _begin(self, exchange: Exchange) -> None:
        """Begin to answer a request, which may not have arrived completely."""
        self._current = exchange
        if exchange.refusal:
            self._refuse(exchange, exchange.refusal)
        elif exchange.endpoint is None:
            self._run_application(exchange)
        elif exchange.is_received:
            self._predict(exchange, exchange.endpoint)

    def _await_body(self, exchange: Exchange) -> None:
        """Acquire a permit for a prediction whose body has not arrived completely, or refuse the request."""
        if exchange.permit:
            return
        exchange.permit = self._shared.admission.try_acquire()
        if exchange.permit is None:
            self._refuse(exchange, busy())
        else:
            exchange.permit.pause()
            self.send_continue(exchange.head)

    def _predict(self, exchange: Exchange, endpoint: Endpoint) -> None:
        admission = self._shared.admission
        if admission.is_full if exchange.permit is None else not exchange.permit.resume():
            self._refuse(exchange, busy())
            return
        exchange.record.restart()
        body, exchange.body = exchange.body, b""
        job = endpoint.answer(exchange.record, exchange.head.by_name, bytes(body), partial(self._respond, exchange))
        if job:
            exchange.job = job
            # Predictions answered on the event loop need no permit: the loop does nothing else until they are answered.
            if exchange.permit is None and type(job) is not Entry:
                exchange.permit = admission.try_acquire()

    def _limit_body(self, exchange: Exchange, endpoint: Endpoint, size: int) -> None:
        """Refuse a body that is too large, or that exceeds the limit for all bodies together."""
        if self._body_size > endpoint.max_body_bytes:
            refusal = too_large(endpoint.max_body_bytes)
        elif exchange.permit is None or exchange.permit.hold(size):
            return
        else:
            refusal = busy()
        exchange.body = b""
        if exchange is self._current:
            self._refuse(exchange, refusal)
        else:
            exchange.refusal = refusal

    def _run_application(self, exchange: Exchange) -> None:
        url = httptools.parse_url(self._url if exchange is self._incoming else exchange.head.url)
        path = unquote(url.path.decode("ascii"))
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": exchange.head.version,
            "method": exchange.head.method.decode(),
            "scheme": "https" if self.transport.get_extra_info("sslcontext") else "http",
            "path": self._host.root_path + path,
            "raw_path": self._host.root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
            "root_path": self._host.root_path,
            "headers": exchange.head.headers,
            "client": _address(self.transport.get_extra_info("peername")),
            "server": _address(self.transport.get_extra_info("sockname")),
            "state": dict(self._host.state),
            RECORD: exchange.record,
        }
        exchange.cycle = cycle = Cycle(self, exchange.head, scope, exchange.record)
        if exchange.body:
            cycle.feed(bytes(exchange.body))
            exchange.body = b""
        if exchange.is_received:
            cycle.finish_body()
        task = self._loop.create_task(cycle.run(self._host.app))
        self._host.tasks.add(task)
        task.add_done_callback(self._host.tasks.discard)

    def send_continue(self, head: Head) -> None:
        """Send 100 Continue if the client waits for it."""
        if head.wants_continue:
            head.wants_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def write(self, data: bytes) -> None:
        """Write bytes."""
        self._written += len(data)
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the write buffer has room."""
        if self._writable:
            await self._writable.wait()

    def write_head(self, head: Head, status: int, lines: list[bytes], body: bytes = b"") -> None:
        """Write the status line, the headers and the first bytes of the body of a response."""
        if head.wants_continue:
            head.is_last = True  # without 100 Continue, the next bytes may be the body or a new request
        default = (b"%b: %b" % header for header in self._host.default_headers)
        close = (b"connection: close",) if head.is_last else ()
        line = b"HTTP/1.1 %d %b" % (status, _PHRASES.get(status, b""))
        self.write(b"\r\n".join((line, *default, *lines, *close, b"", body)))

    def finish(self, cycle: Cycle) -> None:
        """Finish a request that an application has answered."""
        if self._current and self._current.cycle is cycle:
            self._finish(self._current)

    def abandon(self, cycle: Cycle) -> None:
        """Close the connection after an application has stopped without an answer, or in the middle of one."""
        if self._current and self._current.cycle is cycle and not self._current.is_answered:
            self.transport.abort() if cycle.is_started else self.transport.close()

    def _respond(self, exchange: Exchange, status: int, body: bytes, headers: Headers) -> None:
        """Write an answer without an application; it is JSON unless its headers have another content type."""
        if self.transport.is_closing():
            return
        head, record = exchange.head, exchange.record
        self._release(exchange)
        if status == HTTPStatus.OK and not head.is_last and len(body) <= _MAX_JOINED_BYTES:
            ok = self._shared.ok_head(self._host.default_headers)
            kind = b"".join([b"%b: %b\r\n" % header for header in headers]) if headers else _JSON
            self.write(b"%b%d\r\nx-request-id: %b\r\n%b\r\n%b" % (ok, len(body), record.request_id, kind, body))
        else:
            is_json = not headers or b"content-type" not in dict(headers)
            lines = [
                *((_JSON.rstrip(),) if is_json else ()),
                b"content-length: %d" % len(body),
                b"x-request-id: %b" % record.request_id,
                *(b"%b: %b" % header for header in headers),
            ]
            shown = b"" if head.method == b"HEAD" else body
            is_joined = len(shown) <= _MAX_JOINED_BYTES
            self.write_head(head, status, lines, shown if is_joined else b"")
            if not is_joined:
                self.write(shown)
        self._shared.observer.observe(record, status)
        self._finish(exchange)

    def _refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Answer with an error; the rest of the body is discarded, or ends the connection if it is too long."""
        if not exchange.is_received and (self._length is None or self._length > _MAX_DISCARDED_BYTES):
            exchange.head.is_last = True
        exchange.record.code, exchange.record.reason = error.code, error.reason
        field = (exchange.endpoint or exchange.record).error_field
        self._respond(exchange, error.status, error_body(error.detail, field), error.headers)

    def _reject(self, error: RequestError) -> None:
        """Answer an invalid or incomplete request with an error, after the requests before it, and close."""
        self._unparsed = b""
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            head = Head(b"", b"", "1.1", (), is_last=True)
            exchange = Exchange(head, self._shared.observer.begin())
        exchange.head.is_last = True
        exchange.refusal = error
        if self._current is None:
            self._begin(exchange)
        elif exchange is not self._current:
            self._queue.append(exchange)
            self._is_in_head = False
        elif exchange.is_answered or (exchange.cycle and exchange.cycle.is_started):
            self._linger()
        else:
            if exchange.cycle:
                exchange.cycle.disconnect(is_superseded=True)
            self._refuse(exchange, error)

    def _release(self, exchange: Exchange) -> None:
        """Release a request's permit and cancel its job."""
        if exchange.permit:
            exchange.permit.release()
        if exchange.job:
            exchange.job.cancel()

    def _finish(self, exchange: Exchange) -> None:
        """Mark a request as answered, and continue with the next one once it has arrived completely."""
        exchange.is_answered = True
        if not exchange.is_received and exchange.head.is_last:
            self._linger()
        elif exchange.is_received:
            self._next(exchange)

    def _next(self, exchange: Exchange) -> None:
        """Close after the last request; otherwise begin the next one, or become idle."""
        self._current = None
        if exchange.head.is_last:
            self.close()
            return
        self._state_since = self._loop.time()
        self._is_body_full = False
        if self._queue or self._unparsed:
            self._parse_later()
        elif self._has_backlog:
            self._set_backlog(has_backlog=False)
        if not self._is_in_head and not self._queue and not self._unparsed:
            self._shared.mark_idle(self)

    def _linger(self) -> None:
        """Close the sending side now, and the connection a little later.

        Closing with unread input would reset the connection, possibly before the client has read the answer.
        """
        self._is_closing = True
        self._state_since = self._loop.time()
        if self._is_reading_paused:
            self._has_backlog = self._is_body_full = False
            self._update_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def check_timeouts(self, now: float, timeout: float, idle_seconds: float) -> None:
        """Close the connection if its request, its client or its idle time exceeds a limit.

        Args:
            now: the event loop's time.
            timeout: seconds that a request may take to arrive, and that a client may read too slowly.
            idle_seconds: seconds that the connection may be idle.
        """
        seconds = now - self._state_since
        if self._is_unread(now, timeout):
            self._shared.observer.observe_unread(timeout)
            # SO_LINGER 0 resets the connection: otherwise the kernel would keep its unsent bytes in memory.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        elif self._is_closing:
            if seconds > _LINGER_SECONDS and not self.transport.get_write_buffer_size():
                self.transport.abort()
        elif self._is_in_head or (self._incoming and not self._is_body_full):
            if seconds > timeout:
                detail = f"The request did not arrive within {timeout:g} seconds."
                self._reject(RequestError(detail, HTTPStatus.REQUEST_TIMEOUT, code="request-timeout"))
        elif self._current is None and seconds > (idle_seconds if self._has_received_request else timeout):
            self.close()

    def _is_unread(self, now: float, timeout: float) -> bool:
        """Return whether the client has received its answers at less than 64 KiB per second for `timeout` seconds.

        Bytes in the socket's send queue are not received yet: the kernel refills that queue in steps of up to a
        megabyte, which a slow but steady client reads in more than `timeout` seconds.
        """
        size = self.transport.get_write_buffer_size()
        sent = self._written - size - (_queued_bytes(self.transport.get_extra_info("socket")) if size else 0)
        if not size:
            self._slow_since = None
        elif self._slow_since is None or sent - self._sent_at_slow_start >= _MIN_BYTES_PER_SECOND * (
            now - self._slow_since
        ):
            self._slow_since = now
            self._sent_at_slow_start = sent
        elif now - self._slow_since > timeout:
            return True
        return False

    def _upgrade(self, rest: bytes) -> None:
        """Hand a WebSocket to its protocol, or parse the request again without its Upgrade header.

        A server may ignore an upgrade (RFC 9110, section 7.8). Clients that prefer HTTP/2 offer one with every request,
        and the parser would drop the body of such a request.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version()
        by_name = dict(self._headers)
        line = b"%b %b HTTP/%b\r\n" % (method, self._url, version.encode())
        is_websocket = method == b"GET" and by_name.get(b"upgrade", b"").lower() == b"websocket"
        protocol = self._host.websocket() if is_websocket and self._current is None else None
        if protocol:
            head = b"".join([line, *(b"%b: %b\r\n" % header for header in self._headers), b"\r\n"])
            self._shared.remove(self)
            self._host.connections.discard(self)
            self._is_closing = True
            protocol.connection_made(self.transport)
            protocol.data_received(head + rest)
            self.transport.set_protocol(protocol)
            return
        kept = [(name, value) for name, value in self._headers if name not in (b"upgrade", b"http2-settings")]
        without = [
            (name, b"close" if b"close" in value.lower() else b"keep-alive") if name == b"connection" else (name, value)
            for name, value in kept
        ]
        self._parser = httptools.HttpRequestParser(self)
        self._unparsed = rest + self._unparsed[self._parsed :]
        self._parsed = 0
        self._parse(b"".join([line, *(b"%b: %b\r\n" % header for header in without), b"\r\n"]))
        self._is_upgrade = False


def _queued_bytes(connection: socket.socket) -> int:
    """Return the number of bytes in a socket's send queue that the other side has not acknowledged; 0 if unknown."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 (Unix only)
        import termios  # noqa: PLC0415 (Unix only)

        with suppress(OSError):
            answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
            return int(_INT.unpack(answer)[0])
    return 0


def _invalid(detail: str) -> RequestError:
    return RequestError(detail, code="http-invalid")


def _body_padded() -> RequestError:
    detail = "The body has far more chunk headers or trailers than data; send larger chunks."
    return RequestError(detail, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, code="body-padded")


def _head_too_large() -> RequestError:
    return RequestError(
        f"The path and the headers are larger than {_MAX_HEAD_BYTES} bytes together.",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        code="head-too-large",
    )


def _address(name: object) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) > 1 else None
