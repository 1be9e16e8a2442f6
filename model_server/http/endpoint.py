"""HTTP endpoint of a declared method that takes rows: from the request body to the response body."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

import numpy as np
import pydantic
from bentoml.exceptions import BentoMLException

from model_server.http.admission import Admission
from model_server.http.errors import (
    SERVER_FAILED,
    Headers,
    RequestError,
    check_headers,
    error_body,
    invalid,
    no_memory,
    raised,
    stopping,
    too_large,
)
from model_server.model.model import Model, current_predictions
from model_server.model.rows import Array, InvalidRowsError, Rows
from model_server.observability.observer import Observer, RequestRecord
from model_server.observability.predictions import Predictions
from model_server.prediction.batches import Call, Entry, LoopBatches, ThreadBatches
from model_server.prediction.pace import Pace
from model_server.prediction.runner import INLINE_SECONDS, Job, Runner
from model_server.protocols.json_body import BodyError
from model_server.protocols.json_columns import make_rows_parser
from model_server.protocols.json_rows import Answers, encode_answers

Step = Callable[[str, Callable[..., Any]], Callable[..., Any]]
Respond = Callable[[int, bytes, Headers], None]

INLINE_BYTES = 32 * 1024
_INLINE_TEXT_BYTES = 4096  # a model needs 1 ms to split this much text into words
_MAX_INLINE_ROWS = INLINE_BYTES  # a body that is parsed on the event loop has fewer rows
_OK = int(HTTPStatus.OK)


# Result of a prediction: the response body, the number of rows, and the duration of the method in seconds.
_Predicted = tuple[bytes, int, float]


class RowsMethod(NamedTuple):
    """A method of the service that takes rows, bound to the service instance.

    Attributes:
        name: name of the method in the service class.
        route: path of the method, including the service's prefix.
        parameter: name of the parameter that takes the rows.
        call: the bound method; takes rows, and the other parameters by name; returns one answer per row, in order.
        is_async: whether the method is a coroutine function.
        parameters: a pydantic model of the other parameters; None without any.
        returns: return annotation of the method.
        summary: first line of the method's docstring.
    """

    name: str
    route: str
    parameter: str
    call: Callable[..., Any]
    is_async: bool
    parameters: type[pydantic.BaseModel] | None
    returns: Any
    summary: str


def _untraced(_name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _share_untraced(_name: str, call: Callable[[Rows], Answers]) -> Call:
    return lambda rows, _entries: call(rows)


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
        share: wraps a step that answers several requests in a tracing span.
        span: returns the tracing span of the current request; None if it is not traced.
        refused: paths of the routes for class names, if the model has no classes.
        predictions: counts what the model predicts; None if that is off.
    """

    runner: Runner
    admission: Admission
    observer: Observer
    max_body_bytes: int
    timeout: float
    step: Step = _untraced
    share: Callable[[str, Callable[[Rows], Answers]], Call] = _share_untraced
    span: Callable[[], object] = _no_span
    refused: set[str] = field(default_factory=set)
    predictions: Predictions | None = None


class Endpoint:
    """Answers request bodies by calling a declared method, independently of the transport.

    Args:
        method: the method.
        model: the model, which determines the form of the rows.
        shared: objects and limits shared by all endpoints.
    """

    def __init__(self, method: RowsMethod, model: Model, shared: Shared) -> None:
        self.method = method
        self.max_body_bytes = shared.max_body_bytes
        self.admission = shared.admission
        self.observer = shared.observer
        self._pace = Pace()
        self._runner = shared.runner
        self._estimate = model.estimate_latency
        self._max_inline_rows = max_rows(model, INLINE_SECONDS)
        self._inline_bytes = _INLINE_TEXT_BYTES if model.spec.is_text else INLINE_BYTES
        self._timeout = shared.timeout
        self._rows = make_rows_parser(model.spec, method.parameter)
        self._parse = shared.step("parse", self._rows.parse_with_fields if method.parameters else self._rows.parse)
        self._encode = shared.step("encode", encode_answers)
        self._predictions = shared.predictions
        self._call = shared.step("inference", method.call if method.is_async else self._call_checked)
        self._span = shared.span
        self._batches = self._make_batches(model, shared)

    def _make_batches(self, model: Model, shared: Shared) -> LoopBatches | ThreadBatches | None:
        """Return the batching queue; None if batching is off, or the method is async or has other parameters."""
        if not model.batching.is_on or self.method.parameters or self.method.is_async:
            return None
        call = shared.share("inference", self._call_checked)
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
        if duplicates or headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers:
            try:
                for given in (headers, *({name: value} for name, value in duplicates)):
                    check_headers(given)
            except RequestError as error:
                return error
        # The transport has already refused a content-length with too many digits.
        if int(headers.get(b"content-length", 0)) > self.max_body_bytes:
            return too_large(self.max_body_bytes)
        return None

    def answer(
        self, request: RequestRecord, body: bytes, respond: Respond
    ) -> "Entry | Job | asyncio.Task[None] | None":
        """Answer a body by calling `respond` once, before or after this method returns.

        Args:
            request: record of the request, started when the body had arrived.
            body: the whole body.
            respond: takes status, body and extra headers of the response.

        Returns:
            An object that can be cancelled until the request is answered; None if it is already answered.
        """
        try:
            if self.method.is_async:
                return asyncio.get_running_loop().create_task(self._await(body, request, respond))
            if len(body) > self._inline_bytes:
                return self._submit(partial(self._predict_body, body), request, respond)
            rows, fields = (self._parse(body), None) if self.method.parameters is None else self._read(body)
            if self._batches and len(rows) <= self._batches.max_rows and not self._pace.is_slow:
                return self._batches.submit(rows, partial(self._deliver, request, respond), self._span())
            if len(rows) > self._max_inline_rows or self._pace.is_slow:
                return self._submit(partial(self._predict, rows, fields), request, respond)
            answer, _, seconds = self._predict(rows, fields)
        except Exception as error:  # noqa: BLE001 (any error is answered)
            self.fail(request, error, respond)
        else:
            self._observe_inference(len(rows), seconds)
            respond(_OK, answer, ())
        return None

    def _deliver(
        self, request: RequestRecord, respond: Respond, answers: Answers | None, error: BaseException | None
    ) -> None:
        if answers is None:
            self.fail(request, error or RuntimeError("no answer"), respond)
            return
        try:
            body = self._encode(answers)
        except Exception as failure:  # noqa: BLE001 (any error is answered)
            self.fail(request, failure, respond)
        else:
            respond(_OK, body, ())

    def fail(self, request: RequestRecord, error: BaseException, respond: Respond) -> None:
        """Answer with an error, and log an unexpected one."""
        match error:
            case BodyError() | InvalidRowsError():
                error = invalid(error, self.method.parameter)
            case TimeoutError() if error.__traceback__ is None:  # delivered, not raised by the method
                detail = f"The model did not answer within {self._timeout:g} seconds."
                error = RequestError(detail, HTTPStatus.GATEWAY_TIMEOUT, code="model-timeout")
            case MemoryError():
                error = no_memory()
            case asyncio.CancelledError():
                error = stopping()
            case BentoMLException():
                failure, error = error, raised(error, self.method.route)
                if error.detail == SERVER_FAILED:
                    self.observer.observe_failure(request, failure)
        if not isinstance(error, RequestError):
            self.observer.observe_failure(request, error)
            error = RequestError(SERVER_FAILED, HTTPStatus.INTERNAL_SERVER_ERROR, code="server-failed")
        request.code, request.reason = error.code, error.reason
        respond(error.status, error_body(error.detail), error.headers)

    def _read(self, body: bytes) -> tuple[Rows, dict[str, Any] | None]:
        if self.method.parameters is None:
            return self._parse(body), None
        rows, fields = self._parse(body)
        try:
            parameters = self.method.parameters.model_validate(fields)
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            name = ".".join(map(str, problem["loc"]))
            raise BodyError("field-invalid", f'The field "{name}" is invalid: {problem["msg"]}.') from error
        return rows, {name: getattr(parameters, name) for name in self.method.parameters.model_fields}

    def _predict_body(self, body: bytes) -> _Predicted:
        rows, fields = self._read(body)
        seconds = self._estimate(len(rows))
        if len(rows) > 1 and self._timeout < seconds < math.inf:
            raise RequestError(
                f"The model needs more than {self._timeout:g} seconds for {len(rows)} rows; send fewer at once.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                code="rows-too-many",
            )
        return self._predict(rows, fields)

    def _predict(self, rows: Rows, fields: dict[str, Any] | None) -> _Predicted:
        began = time.perf_counter()
        answers: Answers = self._call(rows, **fields) if fields else self._call(rows)
        seconds = time.perf_counter() - began
        return self._encode(answers), len(rows), seconds

    def _call_checked(self, rows: Rows, **fields: Any) -> Answers:  # noqa: ANN401 (any parameters)
        collected = self._collect()
        answers: Answers = self.method.call(rows, **fields)
        self._check(answers, len(rows))
        self._count(collected)
        return answers

    def _collect(self) -> list[Array]:
        """Return a list that the model adds its predictions in this context to."""
        collected: list[Array] = []
        if self._predictions:
            current_predictions.set(collected)
        return collected

    def _count(self, collected: list[Array]) -> None:
        """Count the last predictions in a call: a method may ask the model for probabilities and for labels."""
        if self._predictions and collected:
            self._predictions.count(collected[-1])
            collected.clear()  # the connection's context keeps the list

    async def _await(self, body: bytes, request: RequestRecord, respond: Respond) -> None:
        is_large = len(body) > self._inline_bytes
        limit = asyncio.timeout(self._timeout - (time.perf_counter() - request.started))
        try:
            async with limit:
                rows, fields = await self._in_thread(self._read, body) if is_large else self._read(body)
                began = time.perf_counter()
                collected = self._collect()
                answers = await self._call(rows, **(fields or {}))
                self._observe_inference(len(rows), time.perf_counter() - began)
                self._check(answers, len(rows))
                self._count(collected)
                body = await self._in_thread(self._encode, answers) if is_large else self._encode(answers)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (any error is answered)
            self.fail(request, TimeoutError() if limit.expired() else error, respond)
        else:
            respond(_OK, body, ())

    async def _in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 (any result)
        """Return the result of a slow function without blocking the event loop."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(value: Any, error: BaseException | None) -> None:  # noqa: ANN401 (any result)
            if result.cancelled():
                return
            if error:
                result.set_exception(error)
            else:
                result.set_result(value)

        job = self._runner.submit(partial(function, *arguments), done, self._timeout)
        try:
            return await result
        finally:
            job.cancel()

    def _observe_inference(self, rows: int, seconds: float) -> None:
        self.observer.metrics.observe_inference(rows, seconds)
        if rows <= self._max_inline_rows:
            self._pace.observe(seconds)

    def _check(self, answers: Any, rows: int) -> None:  # noqa: ANN401 (any result)
        if type(answers) is np.ndarray and len(answers) == rows:
            return
        try:
            found = len(answers)
        except TypeError:
            found = None
        if found != rows or isinstance(answers, str | bytes | dict):
            raise TypeError(
                f"{self.method.name} returned {type(answers).__name__} for {rows} rows; expected a sequence of {rows} "
                "answers, one per row"
            )

    def _submit(self, work: Callable[[], _Predicted], request: RequestRecord, respond: Respond) -> Job:
        def done(predicted: _Predicted | None, error: BaseException | None) -> None:
            if predicted is None:
                self.fail(request, error or RuntimeError("no result"), respond)
            else:
                body, rows, seconds = predicted
                self._observe_inference(rows, seconds)
                respond(_OK, body, ())

        return self._runner.submit(work, done, self._timeout - (time.perf_counter() - request.started))


def max_rows(model: Model, seconds: float) -> int:
    """Return the number of rows that the model can answer in a time in seconds, according to its measured latency."""
    one = model.estimate_latency(1)
    each = model.estimate_latency(2) - one
    if one > seconds:
        return 0
    return 1 + int((seconds - one) / each) if each > 0 else _MAX_INLINE_ROWS
