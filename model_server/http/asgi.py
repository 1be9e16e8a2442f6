"""Requests by ASGI: those for predictions, and all that BentoML's application answers."""

import asyncio
from collections.abc import Collection, Mapping
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.http.admission import Permit
from model_server.http.endpoint import INLINE_BYTES, Endpoint, Shared
from model_server.http.errors import (
    CLIENT_CLOSED_REQUEST,
    SERVER_FAILED,
    Headers,
    RequestError,
    busy,
    error_body,
    foreign_detail,
    not_found,
    stuck,
    too_large,
)
from model_server.observability.observer import RequestRecord

RECORD = "model_server.record"  # in the scope of a request
_JSON = (b"content-type", b"application/json")
_MOST_ERROR_BYTES = 64 * 1024


class AsgiEndpoint:
    """An endpoint as an ASGI application.

    Args:
        endpoint: the endpoint.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoint
        request: RequestRecord = scope[RECORD]
        answers: list[tuple[int, bytes, Headers]] = []
        is_answered = asyncio.Event()

        def respond(status: int, body: bytes, headers: Headers) -> None:
            answers.append((status, body, headers))
            is_answered.set()

        job = None
        permit = endpoint.admission.try_acquire()
        try:
            headers = dict(scope["headers"])
            duplicates = scope["headers"] if len(headers) < len(scope["headers"]) else ()
            if refusal := endpoint.refusal(headers, duplicates):
                raise refusal
            body = await _read_body(receive, permit, endpoint.max_body_bytes)
            request.restart()
            job = endpoint.answer(request, body, respond)
            await is_answered.wait()
        except ClientDisconnect:
            request.is_aborted = True
            return
        except (RequestError, asyncio.CancelledError) as error:
            endpoint.fail(request, error, respond)
        finally:
            if permit:
                permit.release()
            if job:
                job.cancel()
        request.is_ours = True
        await _send(send, *answers[0])


class Front:
    """The outermost ASGI application of a server: names, counts and logs requests, and gives their errors one form.

    Args:
        app: BentoML's application.
        endpoints: what answers predictions, by their paths.
        shared: what they share.
        probes: paths that are answered however many requests are in flight.
        via_app: whether predictions go through the application too, since something there has to see them.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Mapping[str, Endpoint],
        shared: Shared,
        probes: Collection[str],
        *,
        via_app: bool,
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._shared = shared
        self._probes = frozenset(probes)
        self._via_app = via_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request: RequestRecord | None = scope.get(RECORD)
        if request is None:
            request = self._shared.observer.begin(scope["method"], scope["path"], dict(scope["headers"]))
            scope[RECORD] = request
        app, permit = self._choose(scope["method"], scope["path"])
        response = _Response(scope, request, send, permit)
        try:
            await (_HeadAsGet(app) if scope["method"] == "HEAD" else app)(scope, receive, response.send)
            error: Exception | None = None
        except Exception as raised:  # noqa: BLE001 (whatever it is, it is logged)
            error = raised
        finally:
            if permit:
                permit.release()
        if not request.is_aborted:
            if not response.status:
                error = error or RuntimeError("the application has not answered")
                await _Refusal(RequestError(SERVER_FAILED, 500, code="server-failed"))(scope, receive, response.send)
            if error:
                self._shared.observer.observe_failure(request, error)
        if not request.is_cut:
            self._shared.observer.observe(request, CLIENT_CLOSED_REQUEST if request.is_aborted else response.status)

    def _choose(self, method: str, path: str) -> tuple[ASGIApp, Permit | None]:
        """Return what answers a request, and its permit if that does not take one itself."""
        endpoint = self._endpoints.get(path) if method == "POST" else None
        if endpoint:
            return self._app if self._via_app else AsgiEndpoint(endpoint), None
        if path in self._probes:
            is_refused = self._shared.runner.is_stuck and not path.endswith("/metrics")
            return _Refusal(stuck()) if is_refused else self._app, None
        permit = self._shared.admission.try_acquire()
        return self._app if permit else _Refusal(busy()), permit


class _Refusal:
    """An application that refuses."""

    def __init__(self, error: RequestError) -> None:
        self._error = error

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        request: RequestRecord = scope[RECORD]
        request.is_ours = True
        request.code, request.reason = self._error.code, self._error.reason
        await _send(send, self._error.status, error_body(self._error.detail), self._error.headers)


class _HeadAsGet:
    """An application that is asked for GET where it does not route HEAD; the connection leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_refused = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal is_refused
            is_refused |= message.get("status") == HTTPStatus.METHOD_NOT_ALLOWED
            if not is_refused:
                await send(message)

        await self._app(scope, receive, send_unless_refused)
        if is_refused:
            await self._app({**scope, "method": "GET"}, receive, send)


class _Response:
    """A response on its way: gets the request's id, and, if it is an error of others, our form.

    Attributes:
        status: its HTTP status code; 0 until it begins.
    """

    def __init__(self, scope: Scope, request: RequestRecord, send: Send, permit: Permit | None) -> None:
        self._scope = scope
        self._request = request
        self._send = send
        self._permit = permit
        self._start: Message | None = None  # of an error, until all of its body is here
        self._body = b""
        self._is_complete = False
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send the next part."""
        if self._is_complete:
            return
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._start is None:
            await self._send(message)
        else:
            self._body = (self._body + message.get("body", b""))[:_MOST_ERROR_BYTES]
            if not message.get("more_body", False):
                await self._send_error(self._start)

    async def _begin(self, message: Message) -> None:
        if self._permit:
            self._permit.release()  # a slow reader takes no place from others
        self.status = message["status"]
        request_id = (b"x-request-id", self._request.request_id)
        if self.status >= HTTPStatus.BAD_REQUEST and not self._request.is_ours:
            self._start = message
        elif _is_known(self._scope, message):
            self.status = HTTPStatus.NOT_MODIFIED
            self._is_complete = True
            headers = (*_kept(message["headers"]), request_id)
            await self._send({**message, "status": self.status, "headers": headers})
            await self._send({"type": "http.response.body"})
        else:
            await self._send({**message, "headers": (*message.get("headers", ()), request_id)})

    async def _send_error(self, start: Message) -> None:
        self._is_complete = True
        headers = start.get("headers", ())
        detail = foreign_detail(self._scope["method"], self._scope["path"], self.status, dict(headers), self._body)
        request_id = (b"x-request-id", self._request.request_id)
        await _send(self._send, self.status, error_body(detail), (request_id, *_kept(headers)))


class Timeout:
    """Middleware that answers with 504 when an application has not begun to answer in time.

    It stands in for BentoML's, which holds its timer, and an exception, until the time has passed.

    Args:
        app: the application.
        timeout: seconds.
    """

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._timeout) as limit:
                await self._app(scope, receive, send_in_time)
        except TimeoutError:
            if not limit.expired():
                raise
            detail = f"The server had no answer within {self._timeout:g} seconds."
            await _Refusal(RequestError(detail, HTTPStatus.GATEWAY_TIMEOUT, code="timeout"))(scope, receive, send)


async def answer_not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer where no route matches."""
    await _Refusal(not_found(scope["method"], scope["path"]))(scope, receive, send)


async def _read_body(receive: Receive, permit: Permit | None, max_body_bytes: int) -> bytes:
    if permit is None:
        raise busy()
    parts = []
    size = 0
    more = True
    while more:
        permit.pause()
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > max_body_bytes:
            raise too_large(max_body_bytes)
        more = message.get("more_body", False)
        if size > INLINE_BYTES and not permit.hold(len(part)):
            raise busy()
    if not permit.resume():
        raise busy()
    return b"".join(parts)


def _is_known(scope: Scope, response: Message) -> bool:
    """Return whether the client has what it would be sent, by the entity tag (RFC 9110, section 13.1.2)."""
    etag = dict(response.get("headers", ())).get(b"etag")
    if etag is None or response["status"] != HTTPStatus.OK:
        return False
    asked = [tag.strip() for name, value in scope["headers"] if name == b"if-none-match" for tag in value.split(b",")]
    return any(tag == b"*" or tag.removeprefix(b"W/") == etag.removeprefix(b"W/") for tag in asked)


def _kept(headers: Headers) -> Headers:
    return [header for header in headers if not header[0].startswith(b"content-")]


async def _send(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    fixed = (_JSON, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": (*fixed, *headers)})
    await send({"type": "http.response.body", "body": body})
