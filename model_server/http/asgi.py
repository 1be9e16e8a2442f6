"""Requests through ASGI: predictions, and all requests that BentoML's application answers."""

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
    RequestError,
    app_error_detail,
    busy,
    error_body,
    no_classes,
    not_found,
    stuck,
    too_large,
)
from model_server.observability.observer import RequestRecord
from model_server.protocols.protocol import Headers

RECORD = "model_server.record"  # the scope's key for the request's record
_PERMIT = "model_server.permit"  # the scope's key for the request's permit
# Marks this package's errors as they pass through middleware; responses created by middleware lack this header.
_MARK = b"x-model-server-error"
_JSON = (b"content-type", b"application/json")
_MAX_ERROR_BYTES = 64 * 1024


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
        permit = scope.get(_PERMIT) or endpoint.admission.try_acquire()
        try:
            headers = dict(scope["headers"])
            duplicates = scope["headers"] if len(headers) < len(scope["headers"]) else ()
            if refusal := endpoint.refusal(headers, duplicates):
                raise refusal
            body = await _read_body(receive, permit, endpoint.max_body_bytes)
            request.restart()
            job = endpoint.answer(request, headers, body, respond)
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
        await _send_marked(send, *answers[0])


class OutermostApp:
    """The outermost ASGI application: identifies, counts and logs requests, and gives all errors the same format.

    Args:
        app: BentoML's application.
        endpoints: the endpoints for predictions, by path.
        shared: the state that the endpoints share.
        probes: paths that are answered regardless of the number of requests in flight.
        via_app: whether predictions pass through the application too, because its middleware must see them.
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
        self._probes = probes
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
        scope[_PERMIT] = permit  # middleware may rewrite the path to that of a prediction
        response = _Response(scope, request, send, permit)
        try:
            await (_HeadAsGet(app) if scope["method"] == "HEAD" else app)(scope, receive, response.send)
            error: Exception | None = None
        except Exception as raised:  # noqa: BLE001 (whatever it is, it is logged)
            error = raised
        finally:
            if permit:
                permit.release()
        if request.is_superseded:
            return
        status = CLIENT_CLOSED_REQUEST
        if not request.is_aborted:
            status = await response.end()
            if error := error or response.error:
                self._shared.observer.observe_failure(request, error)
        self._shared.observer.observe(request, status)

    def _choose(self, method: str, path: str) -> tuple[ASGIApp, Permit | None]:
        """Return the application that answers a request, and a permit if that application does not acquire one."""
        endpoint = self._endpoints.get(path) if method == "POST" else None
        if endpoint:
            return self._app if self._via_app else AsgiEndpoint(endpoint), None
        if path in self._shared.refused:
            return Refusal(no_classes(path)), None
        if path in self._probes:
            return Refusal(stuck()) if self._is_down(path) else self._app, None
        permit = self._shared.admission.try_acquire()
        return self._app if permit else Refusal(busy()), permit

    def _is_down(self, probe: str) -> bool:
        """Return whether a probe is refused.

        The liveness probe, which restarts the server, is refused only if waiting does not help.
        """
        if probe.endswith(("/livez", "/health/live")):
            return self._shared.runner.is_stuck
        return self._shared.runner.is_occupied and not probe.endswith("/metrics")


class Refusal:
    """An application that refuses every request with the same error."""

    def __init__(self, error: RequestError) -> None:
        self._error = error

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Refuse one request."""
        request: RequestRecord = scope[RECORD]
        request.code, request.reason = self._error.code, self._error.reason
        await _send_marked(
            send, self._error.status, error_body(self._error.detail, request.error_field), self._error.headers
        )


class _HeadAsGet:
    """An application that answers HEAD like GET where it has no HEAD route; the connection omits the body."""

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
    """A response that gets the request's id, and this project's format if it is an error from another library.

    Attributes:
        status: the HTTP status code; 0 until the response begins.
        is_complete: whether the whole response is sent.
        error: what is wrong with the response, once it has ended.
    """

    def __init__(self, scope: Scope, request: RequestRecord, send: Send, permit: Permit | None) -> None:
        self._scope = scope
        self._request = request
        self._send = send
        self._permit = permit
        self._start: Message | None = None  # the start of an error, kept until its body is complete
        self._body = b""
        self.status = 0
        self.is_complete = False
        self.error: Exception | None = None

    async def send(self, message: Message) -> None:
        """Send the next message of the response."""
        if self.is_complete:
            return
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._start is None:
            await self._send(message)
            self.is_complete = not message.get("more_body", False)
        else:
            self._body = (self._body + message.get("body", b""))[:_MAX_ERROR_BYTES]
            if not message.get("more_body", False):
                await self._send_error(self._start)

    async def end(self) -> int:
        """Send an error if nothing is sent yet, and return the status to count: 500 if the response is incomplete."""
        if self.is_complete:
            return self.status
        if self._start:
            await self._send_error(self._start)
            return self.status
        failure = RequestError(SERVER_FAILED, HTTPStatus.INTERNAL_SERVER_ERROR, code="server-failed")
        if self.status:
            self.error = RuntimeError("the application stopped in the middle of its answer")
            self._request.code = failure.code
        else:
            self.error = RuntimeError("the application did not answer")
            await Refusal(failure)(self._scope, _receive_nothing, self.send)
        return failure.status

    async def _begin(self, message: Message) -> None:
        if self._permit:
            self._permit.release()  # a slow reader does not occupy a slot
        self.status = message["status"]
        request_id = (b"x-request-id", self._request.request_id)
        headers = [header for header in message.get("headers", ()) if header[0] != _MARK]
        is_ours = len(headers) < len(message.get("headers", ()))
        if not is_ours:
            self._request.code = self._request.reason = ""  # they belong to an error that middleware has replaced
        if self.status >= HTTPStatus.BAD_REQUEST and not is_ours:
            self._start = message
        elif _matches_etag(self._scope, message):
            self.status = HTTPStatus.NOT_MODIFIED
            self.is_complete = True
            headers = [*_without_content_headers(headers), request_id]
            await self._send({**message, "status": self.status, "headers": headers})
            await self._send({"type": "http.response.body"})
        else:
            await self._send({**message, "headers": [*headers, request_id]})

    async def _send_error(self, start: Message) -> None:
        self.is_complete = True
        headers = start.get("headers", ())
        detail = app_error_detail(self._scope["method"], self._scope["path"], self.status, dict(headers), self._body)
        request_id = (b"x-request-id", self._request.request_id)
        body = error_body(detail, self._request.error_field)
        await _send(self._send, self.status, body, [request_id, *_without_content_headers(headers)])


class Timeout:
    """Middleware that answers with 504 if the application does not begin to answer in time.

    It replaces BentoML's, which keeps a timer and an exception in memory until the timeout has passed.

    Args:
        app: the application.
        timeout: seconds.
    """

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
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
            detail = f"The server did not begin to answer within {self._timeout:g} seconds."
            await Refusal(RequestError(detail, HTTPStatus.GATEWAY_TIMEOUT, code="timeout"))(scope, receive, send)


async def answer_not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with 404, for requests that no route matches."""
    await Refusal(not_found(scope["method"], scope["path"]))(scope, receive, send)


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}


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


def _matches_etag(scope: Scope, response: Message) -> bool:
    """Return whether `If-None-Match` has the response's entity tag (RFC 9110, section 13.1.2)."""
    etag = dict(response.get("headers", ())).get(b"etag")
    if etag is None or response["status"] != HTTPStatus.OK:
        return False
    tags = [tag.strip() for name, value in scope["headers"] if name == b"if-none-match" for tag in value.split(b",")]
    return any(tag == b"*" or tag.removeprefix(b"W/") == etag.removeprefix(b"W/") for tag in tags)


def _without_content_headers(headers: Headers) -> Headers:
    return [header for header in headers if not header[0].startswith(b"content-")]


async def _send_marked(send: Send, status: int, body: bytes, headers: Headers) -> None:
    mark = [(_MARK, b"1")] if status >= HTTPStatus.BAD_REQUEST else []
    await _send(send, status, body, [*headers, *mark])


async def _send(send: Send, status: int, body: bytes, headers: Headers) -> None:
    # Middleware changes the headers in place, so they are a list.
    fixed = [*(() if b"content-type" in dict(headers) else (_JSON,)), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})
