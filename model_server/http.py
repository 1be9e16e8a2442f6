"""The outermost layer of the server: answers predictions itself, and gives every error of the rest one shape."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from model_server.codec import Array, encode
from model_server.errors import RequestError
from model_server.model import Model
from model_server.telemetry import Telemetry

logger = logging.getLogger("model_server")

Headers = Sequence[tuple[bytes, bytes]]

_INLINE_BYTES = 16 * 1024
_INLINE_SECONDS = 0.002
_CLIENT_CLOSED_REQUEST = 499  # nginx's status for an answer that nobody waited for
_OURS = "The server failed to answer; its log says why."


class Gateway:
    """An ASGI application around BentoML's.

    The prediction routes are answered here, from bytes to bytes: BentoML's own path costs several times as much CPU,
    and accepts what no model should be fed. Everything else goes through, and comes back with every error's body as
    `{"detail": "<one sentence>"}`.

    Args:
        app: what answers all other routes.
        model: the model that is served.
        telemetry: counts every request.
        max_body_bytes: largest request body accepted.
        endpoints: paths that may stand in metrics; any other is counted as "other".
    """

    def __init__(
        self, app: ASGIApp, model: Model, telemetry: Telemetry, *, max_body_bytes: int, endpoints: Collection[str]
    ) -> None:
        self._app = app
        self._codec = model.codec
        self._row_seconds = model.seconds
        self._predictions: dict[str, Callable[[Array], object]] = {
            "/predict": model.predict,
            "/predict/label": model.predict_label,
        }
        self._telemetry = telemetry
        self._max_body_bytes = max_body_bytes
        self._endpoints = frozenset(endpoints)
        # No more threads than processors: they bound the memory that bodies at the limit can take, too.
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="inference")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, send)
        elif scope["type"] == "http":
            await self._answer_http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path = scope["path"]
        predict = self._predictions.get(path) if scope["method"] == "POST" else None
        if predict:
            status = await self._answer(predict, scope, receive, send)
        else:
            status = await self._pass_on(scope, receive, send)
        endpoint = path if path in self._endpoints else "other"
        self._telemetry.observe(endpoint, status, time.perf_counter() - started)

    async def _answer(self, predict: Callable[[Array], object], scope: Scope, receive: Receive, send: Send) -> int:
        status: int = HTTPStatus.OK
        headers: Headers = ()
        try:
            _check_headers(scope["headers"], self._max_body_bytes)
            answer = await self._predict(predict, await _read_body(receive, self._max_body_bytes))
        except RequestError as error:
            status, headers, answer = error.status, error.headers, _error_body(error.detail)
        except ClientDisconnect:
            return _CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, _error_body(_OURS)
        await _send(send, status, answer, headers)
        return status

    async def _predict(self, predict: Callable[[Array], object], body: bytes) -> bytes:
        """Return the answer to a body; what takes long is done in a thread, so that other requests do not wait."""
        run_in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        if len(body) > _INLINE_BYTES:
            return await run_in_thread(lambda: _answer_body(predict(self._codec.parse(body))))
        rows = self._codec.parse(body)
        if len(rows) * self._row_seconds > _INLINE_SECONDS:
            return await run_in_thread(lambda: _answer_body(predict(rows)))
        return _answer_body(predict(rows))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> int:
        status = 0
        replaced = False

        async def send_in_shape(message: Message) -> None:
            nonlocal status, replaced
            if message["type"] == "http.response.start":
                status = message["status"]
                if _is_known(scope, message):
                    status = HTTPStatus.NOT_MODIFIED
                    replaced = True
                    await send({**message, "status": status, "headers": _kept(message["headers"])})
                    await send({"type": "http.response.body"})
                elif status >= HTTPStatus.BAD_REQUEST:
                    replaced = True
                    await _send(send, status, _error_body(_detail(scope, message)), _kept(message["headers"]))
            if not replaced:
                await send(message)

        try:
            await self._app(scope, receive, send_in_shape)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
        if not status:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            await _send(send, status, _error_body(_OURS))
        return status


def refuse_malformed(protocol: HttpToolsProtocol, _message: str) -> None:
    """Answer what is not HTTP at all, in place of uvicorn's plain text (`HttpToolsProtocol.send_400_response`)."""
    body = _error_body("The request is not valid HTTP/1.1.")
    protocol.transport.write(
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    protocol.transport.close()


async def _refuse_websocket(scope: Scope, send: Send) -> None:
    detail = f"There is no websocket at {_shown(scope)}; /docs.json lists what there is."
    await _send(send, HTTPStatus.NOT_FOUND, _error_body(detail), kind="websocket.http.response")


def _check_headers(headers: Headers, max_body_bytes: int) -> None:
    for name, value in headers:
        if name == b"content-type":
            media_type, _, parameters = value.lower().partition(b";")
            charset = parameters.partition(b"charset=")[2].strip(b'" ')
            if media_type.strip() != b"application/json" or charset not in (b"", b"utf-8", b"utf8"):
                raise _unsupported("Content-Type", value, "application/json in UTF-8")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise _unsupported("Content-Encoding", value, "an uncompressed body")
        elif name == b"content-length" and int(value) > max_body_bytes:
            raise _too_large(max_body_bytes)


async def _read_body(receive: Receive, max_body_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > max_body_bytes:
            raise _too_large(max_body_bytes)
        if not message.get("more_body"):
            return bytes(body)


def _unsupported(header: str, value: bytes, expected: str) -> RequestError:
    found = value.decode("latin-1")[:80]
    return RequestError(
        f"The {header} is {found!r}; expected {expected}.",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ((b"accept", b"application/json"),),
    )


def _too_large(max_body_bytes: int) -> RequestError:
    return RequestError(
        f"The body is larger than {max_body_bytes} bytes; send the rows in several requests.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )


def _is_known(scope: Scope, response: Message) -> bool:
    """Return whether the client has what it would be sent, by the entity tag (RFC 9110, section 13.1.2)."""
    etag = dict(response["headers"]).get(b"etag")
    if etag is None or response["status"] != HTTPStatus.OK:
        return False
    asked = [tag.strip() for name, value in scope["headers"] if name == b"if-none-match" for tag in value.split(b",")]
    return any(tag == b"*" or tag.removeprefix(b"W/") == etag.removeprefix(b"W/") for tag in asked)


def _detail(scope: Scope, response: Message) -> str:
    """Return the sentence for an error that BentoML, FastAPI or Starlette has answered with."""
    status = response["status"]
    request = f"{scope['method']} {_shown(scope)}"
    if status == HTTPStatus.NOT_FOUND:
        return f"There is no {request}; /docs.json lists what there is."
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = dict(response["headers"]).get(b"allow", b"no method").decode("latin-1")
        return f"{request} is not allowed; expected {allowed}."
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _OURS
    return f"{request} was refused: {HTTPStatus(status).phrase}."


def _kept(headers: Headers) -> Headers:
    return [header for header in headers if not header[0].startswith(b"content-")]


def _shown(scope: Scope) -> str:
    return quote(scope["path"][:80])


def _answer_body(prediction: object) -> bytes:
    return encode({"prediction": prediction})


def _error_body(detail: str) -> bytes:
    return encode({"detail": detail})


async def _send(send: Send, status: int, body: bytes, headers: Headers = (), *, kind: str = "http.response") -> None:
    await send(
        {
            "type": f"{kind}.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        }
    )
    await send({"type": f"{kind}.body", "body": body})
