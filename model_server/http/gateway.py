"""The outermost layer of the server: answers predictions itself, and gives every error of the rest one shape."""

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from threading import Barrier
from typing import NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.errors import RequestError
from model_server.model.model import Model
from model_server.observability.metrics import UNAVAILABLE
from model_server.observability.observer import Header, Observer
from model_server.protocols.codec import Array, Prediction, encode, encode_prediction
from model_server.settings import Settings, processors

A = TypeVar("A")
B = TypeVar("B")
Headers = Sequence[Header]

# What the event loop may do itself: a thread costs 50 us or more, and what is longer would keep other requests waiting.
_INLINE_BYTES = 32 * 1024
_INLINE_SECONDS = 0.002
_JSON = (b"content-type", b"application/json")
_RETRY_SOON = ((b"retry-after", b"1"),)
CLIENT_CLOSED_REQUEST = 499  # nginx's status for an answer that nobody waited for
_LARGE_BODIES = 8  # as many of the largest may be held at once
_WAIT_SECONDS = 0.04  # in which all in flight are answered at best, having one row each
_OWN_SECONDS = 0.0001  # what a request takes besides the inference
_MOST_IN_FLIGHT = 128
_FEWEST_IN_FLIGHT = 8
# Answered however many requests are in flight, of which they are none.
PROBES = frozenset({"/livez", "/readyz", "/healthz", "/health", "/metrics"})
CUT = "model_server.cut"  # in the scope of a request that its connection has answered, having waited enough
_STOPPING = "The server is stopping; send the request again."
_OURS = "The server failed to answer; its log says why."
_STUCK = "Every inference takes longer than a request may; the server answers no others meanwhile."


class Step(Protocol):
    """Makes of a function one that does the same, under a name."""

    def __call__(self, name: str, function: Callable[[A], B], /) -> Callable[[A], B]:
        """Return that function."""


def _untraced(_name: str, function: Callable[[A], B]) -> Callable[[A], B]:
    return function


class _Answered(NamedTuple):
    """What a thread gives: the body, of how many rows, and the seconds that the model took."""

    body: bytes
    rows: int
    seconds: float


class Gateway:
    """An ASGI application around BentoML's.

    The prediction routes are answered here, from bytes to bytes: BentoML's own path costs several times as much CPU,
    and accepts what no model should be fed. Everything else goes through, and comes back with every error's body as
    `{"detail": "<one sentence>"}`.

    Args:
        app: what answers all other routes.
        model: the model that is served.
        observer: names, counts and logs every request.
        settings: say how large a body may be, how long a request may take, and how many may be in flight and inferred.
        step: makes of each step of a prediction one that is traced.

    Attributes:
        observer: as above.
        in_flight: requests that are here and have no answer yet, but for probes: a connection adds each when it begins,
            and the gateway takes it away while it waits for the body, and when it has the answer.
        max_in_flight: how many there may be: the setting, or as many of one row as are answered in 40 ms.
    """

    def __init__(
        self, app: ASGIApp, model: Model, observer: Observer, settings: Settings, step: Step = _untraced
    ) -> None:
        self._app = app
        self._parse = step("parse", model.codec.parse)
        self._seconds = model.seconds
        predictions: dict[str, Callable[[Array], Prediction]] = {
            "/predict": model.predict,
            "/predict/label": model.predict_label,
        }
        self._predictions = {path: step("inference", predict) for path, predict in predictions.items()}
        self._encode = step("encode", encode_prediction)
        self.observer = observer
        self._observe_inference = observer.telemetry.observe_inference
        self._max_body_bytes = settings.max_body_bytes
        # No more threads than processors: they bound the memory that bodies at the limit can take, too.
        threads = max(1, processors() // settings.intra_op_num_threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        # They begin now: one that begins when memory is short may die unseen, and the event loop would wait for it.
        begun = Barrier(threads + 1)
        for _ in range(threads):
            self._threads.submit(begun.wait)
        begun.wait()
        self._free_threads = asyncio.Semaphore(threads)
        self._max_late = threads
        self._late: set[Future[_Answered]] = set()
        self._timeout = settings.request_timeout_seconds
        self.max_in_flight = settings.max_requests_in_flight or _most_in_flight(model, threads)
        self.in_flight = 0
        observer.telemetry.in_flight = lambda: (self.in_flight, self.max_in_flight)
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        predict = self._predictions.get(scope["path"])
        if predict and scope["method"] == "POST":
            status, reason, started = await self._predict(predict, started, scope, receive, send)
        else:
            status, reason = await self._pass_on(scope, receive, send)
        if status:
            self.observer.observe(scope, status, time.perf_counter() - started, reason)

    @property
    def is_full(self) -> bool:
        """Whether no other request may begin."""
        return self.in_flight >= self.max_in_flight

    async def _predict(
        self, predict: Callable[[Array], Prediction], started: float, scope: Scope, receive: Receive, send: Send
    ) -> tuple[int, str, float]:
        """Answer, and return the status, why it was refused if that does not say so, and since when it was here."""
        status: int = HTTPStatus.OK
        reason = ""
        held: list[int] = []
        headers = dict(scope["headers"])
        request_id = self.observer.name(scope, headers)
        extra: Headers = ()
        try:
            # Each value of a header that is there twice is checked.
            for given in (headers,) if len(headers) == len(scope["headers"]) else map(dict, zip(scope["headers"])):
                _check_headers(given, self._max_body_bytes)
            body = await self._read_body(receive, held)
            started = time.perf_counter()  # what a client takes to send is not the server's time
            if len(body) > _INLINE_BYTES:
                answer = await self._in_thread(started, lambda: self._answer(predict, self._parse(body)))
            else:
                rows = self._parse(body)
                if self._seconds(len(rows)) > _INLINE_SECONDS:
                    answer = await self._in_thread(started, lambda: self._answer(predict, rows))
                else:
                    began = time.perf_counter()
                    prediction = predict(rows)
                    self._observe_inference(len(rows), time.perf_counter() - began)
                    answer = self._encode(prediction)
        except RequestError as error:
            status, extra, answer = error.status, error.headers, _error_body(error.detail)
        except ClientDisconnect:
            return 0 if CUT in scope else CLIENT_CLOSED_REQUEST, "", started
        except TimeoutError:
            status = HTTPStatus.GATEWAY_TIMEOUT
            answer = _error_body(f"The model had no answer within {self._timeout:g} seconds.")
        except asyncio.CancelledError:  # by uvicorn, when the time to drain is over
            status, reason, answer = HTTPStatus.SERVICE_UNAVAILABLE, UNAVAILABLE, _error_body(_STOPPING)
            extra = _RETRY_SOON
        except Exception:  # noqa: BLE001 (whatever it is, it is logged)
            self.observer.observe_failure(scope)
            status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, _error_body(_OURS)
        finally:
            self.in_flight -= 1
            self._held_bytes -= sum(held)
        await _send(send, status, answer, (request_id, *extra))
        return status, reason, started

    async def _read_body(self, receive: Receive, held: list[int]) -> bytes:
        """Return the body, and add to the list what of it has been counted as held."""
        parts = []
        size = 0
        more = True
        while more:
            self.in_flight -= 1  # a slow client takes no place from others
            try:
                message = await receive()
            finally:
                self.in_flight += 1
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > self._max_body_bytes:
                raise _too_large(self._max_body_bytes)
            more = message.get("more_body", False)
            if size > _INLINE_BYTES:
                held.append(len(part))
                self._held_bytes += len(part)
                if self._held_bytes > _LARGE_BODIES * self._max_body_bytes:
                    raise busy()
        if self.in_flight > self.max_in_flight:
            raise busy()
        return b"".join(parts)

    async def _in_thread(self, started: float, work: Callable[[], _Answered]) -> bytes:
        """Return the answer of the work; a timeout frees what waits for a thread, but work that has begun goes on.

        Raises:
            TimeoutError: the request has no more time.
        """
        async with asyncio.timeout(self._timeout - (time.perf_counter() - started)):
            await self._free_threads.acquire()
            job = self._threads.submit(contextvars.copy_context().run, work)
            loop = asyncio.get_running_loop()

            def has_ended(_: Future[_Answered]) -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._free_thread, job)

            job.add_done_callback(has_ended)
            try:
                return (await asyncio.wrap_future(job)).body
            except asyncio.CancelledError:
                if not job.done():
                    self._late.add(job)
                raise

    def _free_thread(self, job: Future[_Answered]) -> None:
        self._late.discard(job)
        self._free_threads.release()
        if not job.cancelled() and not job.exception():
            self._observe_inference(job.result().rows, job.result().seconds)

    def _answer(self, predict: Callable[[Array], Prediction], rows: Array) -> _Answered:
        if len(rows) > 1 and self._timeout < self._seconds(len(rows)) < math.inf:
            raise RequestError(
                f"The model takes over {self._timeout:g} seconds for {len(rows)} rows; send them in several requests.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        began = time.perf_counter()
        prediction = predict(rows)
        seconds = time.perf_counter() - began
        return _Answered(self._encode(prediction), len(rows), seconds)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> tuple[int, str]:
        status = 0
        replaced = False
        took_place = scope["path"] not in PROBES
        request_id = self.observer.name(scope)

        async def send_in_shape(message: Message) -> None:
            nonlocal status, replaced
            if message["type"] == "http.response.start":
                self.in_flight -= took_place  # a slow reader takes no place from others
                status = message["status"]
                if _is_known(scope, message):
                    status = HTTPStatus.NOT_MODIFIED
                    replaced = True
                    await send({**message, "status": status, "headers": (*_kept(message["headers"]), request_id)})
                    await send({"type": "http.response.body"})
                elif status >= HTTPStatus.BAD_REQUEST:
                    replaced = True
                    body = _error_body(_detail(scope, message))
                    await _send(send, status, body, (request_id, *_kept(message["headers"])))
                else:
                    message = {**message, "headers": (*message["headers"], request_id)}
            if not replaced:
                await send(message)

        if not took_place and scope["path"] != "/metrics" and len(self._late) >= self._max_late:
            await _send(send, HTTPStatus.SERVICE_UNAVAILABLE, _error_body(_STUCK), (request_id,))
            return HTTPStatus.SERVICE_UNAVAILABLE, UNAVAILABLE
        if took_place and self.in_flight > self.max_in_flight:
            self.in_flight -= 1
            refusal = busy()
            await _send(send, refusal.status, _error_body(refusal.detail), (request_id, *refusal.headers))
            return refusal.status, ""
        try:
            await self._app(scope, receive, send_in_shape)
        except Exception:  # noqa: BLE001 (whatever it is, it is logged)
            self.observer.observe_failure(scope)
        if not status:
            self.in_flight -= took_place
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            await _send(send, status, _error_body(_OURS), (request_id,))
        return status, UNAVAILABLE if status == HTTPStatus.SERVICE_UNAVAILABLE else ""


def _most_in_flight(model: Model, threads: int) -> int:
    """Return how many requests of one row are answered in the time that the last of them may wait, within bounds."""
    at_once = threads if model.seconds(1) > _INLINE_SECONDS else 1
    answered = _WAIT_SECONDS * at_once / (model.sample_seconds + _OWN_SECONDS)
    return max(_FEWEST_IN_FLIGHT, 2 * threads, min(_MOST_IN_FLIGHT, round(answered)))


def _check_headers(headers: Mapping[bytes, bytes], max_body_bytes: int) -> None:
    content_type = headers.get(b"content-type", b"application/json")
    if content_type != b"application/json":
        media_type, _, parameters = content_type.lower().partition(b";")
        charset = parameters.partition(b"charset=")[2].strip(b'" ')
        if media_type.strip() != b"application/json" or charset not in (b"", b"utf-8", b"utf8"):
            raise _unsupported("Content-Type", content_type, "application/json in UTF-8")
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise _unsupported("Content-Encoding", encoding, "an uncompressed body")
    if int(headers.get(b"content-length", 0)) > max_body_bytes:
        raise _too_large(max_body_bytes)


def busy() -> RequestError:
    """Return the refusal of a request that would be one too many."""
    return RequestError(
        "The server has as many requests as it can answer soon; send this one again later.",
        HTTPStatus.SERVICE_UNAVAILABLE,
        _RETRY_SOON,
    )


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


def _error_body(detail: str) -> bytes:
    return encode({"detail": detail})


async def _send(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    fixed = (_JSON, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": (*fixed, *headers)})
    await send({"type": "http.response.body", "body": body})
