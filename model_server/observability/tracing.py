"""Spans of requests, sent with OTLP over HTTP. Imported only if tracing is on."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, get_current_span, set_span_in_context, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.observability.log import logger
from model_server.observability.observer import Observer

B = TypeVar("B")

_FLUSH_SECONDS = 1.5  # less than the time that a process has to exit after SIGTERM
_PARENT = ("traceparent", "tracestate")
_CLIENT_CLOSED_REQUEST = 499


class Tracing:
    """Creates a span for each request except probes, and one for each step of a prediction.

    The SDK and the exporter read their other settings from the environment.

    Args:
        service_name: the service's name, unless the environment sets one.
        observer: has the routes, the only paths that appear in spans.
        probes: paths without spans.
    """

    def __init__(self, service_name: str, observer: Observer, probes: Collection[str]) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a dead collector must not fill the log
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service_name}))
        self._observer = observer
        self._probes = frozenset(probes)
        self._parent = TraceContextTextMapPropagator()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter()))
        self._tracer = self._provider.get_tracer("model_server")

    def step(self, name: str, function: Callable[..., B]) -> Callable[..., B]:
        """Return the function with a span called `name` around each call."""

        def traced(*args: Any, **kwargs: Any) -> B:  # noqa: ANN401 (any function)
            if not get_current_span().is_recording():  # the sampler did not select this request
                return function(*args, **kwargs)
            span = self._tracer.start_span(name)
            try:
                return function(*args, **kwargs)
            except BaseException:
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                span.end()

        return traced

    def shared_step(self, name: str, function: Callable[[Any, Sequence[Any]], B]) -> Callable[[Any, Sequence[Any]], B]:
        """Return the function with a span around each call for several requests, linked to these requests' spans.

        Args:
            name: the span's name.
            function: takes the rows and the requests. The first request's `span` is the parent.
        """

        def traced(rows: Any, requests: Sequence[Any]) -> B:  # noqa: ANN401 (of any function)
            spans = [request.span for request in requests if request.span]
            if not spans:  # the sampler has left these requests out
                return function(rows, requests)
            links = [Link(span.get_span_context()) for span in spans[1:]]
            span = self._tracer.start_span(name, set_span_in_context(spans[0]), links=links)
            try:
                return function(rows, requests)
            except BaseException:
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                span.end()

        return traced

    def span(self) -> Span | None:
        """Return the span of the current request, unless the sampler has left it out."""
        span = get_current_span()
        return span if span.is_recording() else None

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return the application with a span around each request; the last spans are sent when it shuts down."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":

                async def flush_before_shutdown(message: Message) -> None:
                    if message["type"].startswith("lifespan.shutdown"):
                        await self._flush()
                    await send(message)

                await app(scope, receive, flush_before_shutdown)
            elif scope["type"] != "http" or scope["path"] in self._probes:
                await app(scope, receive, send)
            else:
                await self._trace(app, scope, receive, send)

        return traced

    async def _trace(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        status: int = _CLIENT_CLOSED_REQUEST

        async def send_and_keep_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = self._parent.extract({name: headers[name] for name in _PARENT if name in headers})
        attributes = {"http.request.method": scope["method"]}
        if route := self._observer.routes.get(scope["path"]):
            attributes["http.route"] = route
        name = " ".join(attributes.values())
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                await app(scope, receive, send_and_keep_status)
            finally:
                _end_span(span, status)

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(done.set)

        # Not the event loop's executor: the process would wait for its threads without a limit.
        threading.Thread(target=shut_down, daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), _FLUSH_SECONDS)


class _Exporter(OTLPSpanExporter):
    """An exporter that logs when spans begin to be lost, and when the collector accepts them again."""

    _failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing != self._failing:
            self._failing = failing
            logger.log(
                logging.WARNING if failing else logging.INFO,
                "tracing",
                extra={"fields": {"state": "lost" if failing else "sent"}},
            )
        return result


def _end_span(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.set_attribute("error.type", str(int(status)))
        span.set_status(StatusCode.ERROR)
