"""One request from a connection to an ASGI application, and the response."""

import asyncio
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Scope

from model_server.observability.observer import RequestRecord

if TYPE_CHECKING:
    from model_server.http.connection import Connection
    from model_server.http.exchange import Head

_MAX_BUFFERED_BYTES = 64 * 1024
_INVALID_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]|^$")
_INVALID_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Cycle:
    """A request that an ASGI application answers, in its own task.

    Args:
        connection: the connection that the request arrived on.
        head: the head of the request.
        scope: the ASGI scope of the request.
        request: the record of the request.

    Attributes:
        is_started: whether the head of the response is written.
        is_complete: whether the whole response is written.
    """

    def __init__(self, connection: "Connection", head: "Head", scope: Scope, request: RequestRecord) -> None:
        self._connection = connection
        self._head = head
        self._scope = scope
        self._request = request
        self._body = bytearray()
        self._changed = asyncio.Event()
        self._is_body_complete = False
        self._is_body_delivered = False
        self._is_disconnected = False
        self._is_chunked = False
        self._remaining: int | None = None  # bytes of the response's Content-Length not yet sent
        self.is_started = False
        self.is_complete = False

    def feed(self, data: bytes) -> bool:
        """Append bytes of the body, and return whether the buffer has room for more."""
        self._body += data
        self._changed.set()
        return len(self._body) <= _MAX_BUFFERED_BYTES

    def finish_body(self) -> None:
        """Mark the body as complete."""
        self._is_body_complete = True
        self._changed.set()

    def disconnect(self, *, is_superseded: bool = False) -> None:
        """Tell the application that its client has disconnected.

        Args:
            is_superseded: the connection has answered the request with an error in place of the application.
        """
        self._is_disconnected = True
        if is_superseded:
            self._request.is_superseded = True
        elif not self.is_complete:
            self._request.is_aborted = True
        self._changed.set()

    async def run(self, app: ASGIApp) -> None:
        """Run the application."""
        try:
            await app(self._scope, self._receive, self._send)
        finally:
            if not self.is_complete:
                self._connection.abandon(self)

    async def _receive(self) -> Message:
        if not self._is_body_complete and not self.is_started:
            self._connection.send_continue(self._head)
        while not (self._body or self._is_body_complete > self._is_body_delivered or self._is_done):
            self._connection.read_body()
            self._changed.clear()
            await self._changed.wait()
        if self._is_done:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        self._is_body_delivered = self._is_body_complete
        return {"type": "http.request", "body": body, "more_body": not self._is_body_complete}

    @property
    def _is_done(self) -> bool:
        return self._is_disconnected or self.is_complete

    async def _send(self, message: Message) -> None:
        await self._connection.drain()
        if self._is_disconnected:
            return
        if self.is_complete or self.is_started == (message["type"] == "http.response.start"):
            raise RuntimeError(f"unexpected ASGI message {message['type']!r}")
        if message["type"] == "http.response.start":
            self._start(message)
        else:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))

    def _start(self, message: Message) -> None:
        status = message["status"]
        lines = []
        self.is_started = True
        for name, value in message.get("headers", ()):
            lowered = name.lower()
            if _INVALID_NAME.search(name) or _INVALID_VALUE.search(value):
                raise RuntimeError(f"invalid response header {name!r}")
            if lowered == b"content-length":
                self._remaining = int(value)
            elif lowered == b"transfer-encoding":
                self._is_chunked = value.lower() == b"chunked"
            elif lowered == b"connection":
                self._head.is_last |= b"close" in value.lower()
                continue
            lines.append(b"%b: %b" % (lowered, value))
        has_body = self._head.method != b"HEAD" and status not in _WITHOUT_BODY
        if not has_body:
            self._remaining = 0
            self._is_chunked = False
        elif self._remaining is None and not self._is_chunked:
            if self._head.version == "1.1":
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked")
            else:
                self._head.is_last = True  # closing the connection ends the body
        self._connection.write_head(self._head, status, lines)

    def _send_body(self, data: bytes, *, more: bool) -> None:
        is_dropped = self._remaining == 0 and (self._head.method == b"HEAD")
        if self._is_chunked:
            data = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + (b"" if more else b"0\r\n\r\n")
        elif self._remaining is not None and not is_dropped:
            self._remaining -= len(data)
            if self._remaining < 0 or (self._remaining and not more):
                raise RuntimeError("the length of the response's body differs from its Content-Length")
        if data and not is_dropped:
            self._connection.write(data)
        if not more:
            self.is_complete = True
            self._changed.set()
            self._connection.finish(self)
