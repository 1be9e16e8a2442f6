"""HTTP endpoint of declared methods that take rows: from the request body to the response body."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException
from starlette.exceptions import HTTPException

from model_server.http.admission import Admission
from model_server.http.errors import (
    SERVER_FAILED,
    RequestError,
    check_headers,
    error_body,
    from_raised_error,
    no_memory,
    stopping,
    too_large,
)
from model_server.http.methods import Calls, CountedCalls
from model_server.http.prediction_log import PredictionLog
from model_server.model.model import Model
from model_server.model.rows import InvalidRowsError, Rows
from model_server.observability.observer import Observer, RequestRecord
from model_server.observability.predictions import Predictions
from model_server.prediction.batches import Answers, Call, Entry, LoopBatches, ThreadBatches
from model_server.prediction.pace import Pace
from model_server.prediction.runner import INLINE_SECONDS, Job, Runner
from model_server.protocols.json_body import BodyError
from model_server.protocols.protocol import Headers, WireProtocol

Step = Callable[[str, Callable[..., Any]], Callable[..., Any]]
Respond = Callable[[int, bytes, Headers], None]

INLINE_BYTES = 32 * 1024
_INLINE_TEXT_BYTES = 4096  # a model needs 1 ms to split this much text into words
_MAX_INLINE_ROWS = INLINE_BYTES  # a body that is parsed on the event loop has fewer rows
_OK = int(HTTPStatus.OK)


# Rows, their answers and the rest of the request, for the prediction log.
_Logged = tuple[Rows, Answers, Any]
# Result of a prediction: body and headers of the response, number of rows, what to log, and seconds of the methods.
_Predicted = tuple[bytes, Headers, int, _Logged | None, float]


def _untraced(_name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _untraced_shared_step(_name: str, call: Call) -> Call:
    return call


def _no_span() -> None:
    return None


@dataclass
class Shared:
    """Objects and limits shared by all endpoints of a service.

    Attributes:
        runner: runs long predictions in threads.
        admission: limits the requests in flight.
        observer: counts and logs requests.
        max_body_bytes: maximum size of a request body.
        timeout: maximum duration of a request in seconds.
        step: wraps a step of a prediction in a tracing span.
        shared_step: wraps a step that answers several requests in a tracing span.
        span: returns the tracing span of the current request; None if it is not traced.
        refused: paths of the routes for class names, if the model has no classes.
        predictions: counts what the model predicts; None if that is off.
        prediction_log: logs a sample of inputs and answers; None if that is off.
    """

    runner: Runner
    admission: Admission
    observer: Observer
    max_body_bytes: int
    timeout: float
    step: Step = _untraced
    shared_step: Callable[[str, Call], Call] = _untraced_shared_step
    span: Callable[[], object] = _no_span
    refused: set[str] = field(default_factory=set)
    predictions: Predictions | None = None
    prediction_log: PredictionLog | None = None


class Endpoint:
    """Answers request bodies by calling declared methods, independently of the transport.

    Args:
        route: path of the route for metrics and logs.
        calls: calls the methods.
        protocol: reads the bodies of requests and writes those of answers.
        model: the model whose rows the methods take.
        shared: objects and limits shared by all endpoints.

    Attributes:
        route: as above.
        error_field: the field of an error body that has the sentence.
    """

    def __init__(self, route: str, calls: Calls, protocol: WireProtocol, model: Model, shared: Shared) -> None:
        self.route = route
        self.error_field = protocol.error_field
        self.max_body_bytes = shared.max_body_bytes
        self.admission = shared.admission
        self.observer = shared.observer
        self._protocol = protocol
        self._media_types = protocol.media_types
        self._calls = calls = CountedCalls(calls, shared.predictions) if shared.predictions else calls
        self._is_async = calls.is_async
        self._pace = Pace()
        self._runner = shared.runner
        self._estimate = model.estimate_latency
        self._max_inline_rows = max_rows(model, INLINE_SECONDS)
        self._inline_bytes = _INLINE_TEXT_BYTES if model.spec.is_text else INLINE_BYTES
        self._timeout = shared.timeout
        self._read = shared.step("parse", protocol.read)
        self._write = shared.step("encode", protocol.write)
        self._call = shared.step("inference", calls.one)
        self._wait = shared.step("inference", calls.wait)
        self._as_json = model.as_json
        self._log = shared.prediction_log
        self._span = shared.span
        self._batches = self._make_batches(model, shared)

    def _make_batches(self, model: Model, shared: Shared) -> LoopBatches | ThreadBatches | None:
        """Return the batching queue; None if batching is off, or a method is async or has other parameters."""
        if not model.batching.is_on or self._is_async or not self._calls.may_batch:
            return None
        call = shared.shared_step("inference", self._calls.together)
        rows_per_batch = model.batching.max_rows
        if not self._max_inline_rows:
            return ThreadBatches(call, rows_per_batch, self._observe_inference, shared.runner, self._timeout)
        return LoopBatches(call, min(rows_per_batch, self._max_inline_rows), self._observe_inference)

    def refusal(self, headers: Mapping[bytes, bytes], duplicates: Headers = ()) -> RequestError | None:
        """Return the error for a request with invalid headers; None if they are valid.

        Args:
            headers: the headers by lowercase name.
            duplicates: all headers if a name appears more than once, so that every value is checked.
        """
        if duplicates or headers.get(b"content-type") not in self._media_types or b"content-encoding" in headers:
            try:
                for given in (headers, *({name: value} for name, value in duplicates)):
                    check_headers(given, self._media_types)
            except RequestError as error:
                return error
        # The transport has already refused a content-length with too many digits.
        if int(headers.get(b"content-length", 0)) > self.max_body_bytes:
            return too_large(self.max_body_bytes)
        return None

    def answer(
        self, request: RequestRecord, headers: Mapping[bytes, bytes], body: bytes, respond: Respond
    ) -> "Entry | Job | asyncio.Task[None] | None":
        """Answer a body by calling `respond` once, before or after this method returns.

        Args:
            request: record of the request, started when the body had arrived.
            headers: the headers by lowercase name.
            body: the whole body.
            respond: takes status, body and extra headers of the response.

        Returns:
            An object that can be cancelled until the request is answered; None if it is already answered.
        """
        try:
            if self._is_async:
                return asyncio.get_running_loop().create_task(self._await(request, headers, body, respond))
            if len(body) > self._inline_bytes:
                return self._submit(partial(self._predict_body, body, headers, request.request_id), request, respond)
            rows, ask = asked = self._read(body, headers, request.request_id)
            if self._batches and len(rows) <= self._batches.max_rows and not self._pace.is_slow:
                return self._batches.submit(rows, partial(self._deliver, request, respond, asked), self._span(), ask)
            if len(rows) > self._max_inline_rows or self._pace.is_slow:
                return self._submit(partial(self._predict, rows, ask), request, respond)
            answer, extra, _, logged, seconds = self._predict(rows, ask)
        except Exception as error:  # noqa: BLE001 (any error is answered)
            self.fail(request, error, respond)
        else:
            self._observe_inference(len(rows), seconds)
            respond(_OK, answer, extra)
            self._log_prediction(request, logged)
        return None

    def _deliver(
        self,
        request: RequestRecord,
        respond: Respond,
        asked: tuple[Rows, Any],
        answers: Answers | None,
        error: BaseException | None,
    ) -> None:
        if answers is None:
            self.fail(request, error or RuntimeError("no answer"), respond)
            return
        try:
            body, extra = self._write(answers, asked[1])
        except Exception as failure:  # noqa: BLE001 (any error is answered)
            self.fail(request, failure, respond)
        else:
            respond(_OK, body, extra)
            self._log_prediction(request, (asked[0], answers, asked[1]))

    def fail(self, request: RequestRecord, error: BaseException, respond: Respond) -> None:
        """Answer with an error, and log an unexpected one."""
        match error:
            case BodyError():
                error = RequestError(str(error), code=error.code)
            case InvalidRowsError():
                error = RequestError(self._protocol.describe(error), code="rows-invalid")
            case TimeoutError() if error.__traceback__ is None:  # delivered, not raised by the method
                detail = f"The model did not answer within {self._timeout:g} seconds."
                error = RequestError(detail, HTTPStatus.GATEWAY_TIMEOUT, code="model-timeout")
            case MemoryError():
                error = no_memory()
            case asyncio.CancelledError():
                error = stopping()
            case BentoMLException() | HTTPException():
                failure, error = error, from_raised_error(error, self.route)
                if error.detail == SERVER_FAILED:
                    self.observer.observe_failure(request, failure)
        if not isinstance(error, RequestError):
            self.observer.observe_failure(request, error)
            error = RequestError(SERVER_FAILED, HTTPStatus.INTERNAL_SERVER_ERROR, code="server-failed")
        request.code, request.reason = error.code, error.reason
        respond(error.status, error_body(error.detail, self.error_field), error.headers)

    def _predict_body(self, body: bytes, headers: Mapping[bytes, bytes], request_id: bytes) -> _Predicted:
        rows, ask = self._read(body, headers, request_id)
        seconds = self._estimate(len(rows))
        if len(rows) > 1 and self._timeout < seconds < math.inf:
            raise RequestError(
                f"The model needs more than {self._timeout:g} seconds for {len(rows)} rows; send fewer at once.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                code="rows-too-many",
            )
        return self._predict(rows, ask)

    def _predict(self, rows: Rows, ask: Any) -> _Predicted:  # noqa: ANN401 (the protocol's)
        began = time.perf_counter()
        answers: Answers = self._call(rows, ask)
        seconds = time.perf_counter() - began
        body, extra = self._write(answers, ask)
        # Arrays that outlive the thread's work would make the next request fault new pages in.
        return body, extra, len(rows), (rows, answers, ask) if self._log else None, seconds

    async def _await(
        self, request: RequestRecord, headers: Mapping[bytes, bytes], body: bytes, respond: Respond
    ) -> None:
        is_large = len(body) > self._inline_bytes
        limit = asyncio.timeout(self._timeout - (time.perf_counter() - request.started))
        question = (body, headers, request.request_id)
        in_thread = self._runner.call
        try:
            async with limit:
                rows, ask = await in_thread(self._read, *question) if is_large else self._read(*question)
                began = time.perf_counter()
                answers = await self._wait(rows, ask)
                self._observe_inference(len(rows), time.perf_counter() - began)
                body, extra = await in_thread(self._write, answers, ask) if is_large else self._write(answers, ask)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (any error is answered)
            self.fail(request, TimeoutError() if limit.expired() else error, respond)
        else:
            respond(_OK, body, extra)
            self._log_prediction(request, (rows, answers, ask))

    def _observe_inference(self, rows: int, seconds: float) -> None:
        self.observer.metrics.observe_inference(rows, seconds)
        if rows <= self._max_inline_rows:
            self._pace.observe(seconds)

    def _log_prediction(self, request: RequestRecord, logged: _Logged | None) -> None:
        if self._log and logged:
            self._log.observe(request, self._as_json, *logged)

    def _submit(self, work: Callable[[], _Predicted], request: RequestRecord, respond: Respond) -> Job:
        def done(predicted: _Predicted | None, error: BaseException | None) -> None:
            if predicted is None:
                self.fail(request, error or RuntimeError("no result"), respond)
            else:
                body, extra, rows, logged, seconds = predicted
                self._observe_inference(rows, seconds)
                respond(_OK, body, extra)
                self._log_prediction(request, logged)

        return self._runner.submit(work, done, self._timeout - (time.perf_counter() - request.started))


def max_rows(model: Model, seconds: float) -> int:
    """Return the number of rows that the model can answer within `seconds`, according to its measured latency."""
    one = model.estimate_latency(1)
    each = model.estimate_latency(2) - one
    if one > seconds:
        return 0
    return 1 + int((seconds - one) / each) if each > 0 else _MAX_INLINE_ROWS
