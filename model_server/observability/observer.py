"""What is recorded of each request: its id, its metrics and its log line."""

import itertools
import re
import secrets
import time
from collections.abc import Collection, Mapping
from http import HTTPStatus

from model_server.observability.log import Log, logger
from model_server.observability.metrics import UNREAD, Metrics, reason_of
from volume.log import LogLevel

_REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}")
_BAD_REQUEST = int(HTTPStatus.BAD_REQUEST)  # quicker to compare with
_BAD_REQUEST = int(HTTPStatus.BAD_REQUEST)  # quicker to compare with
_TRACE_ID = re.compile(rb"[\da-f]{2}-(?!0{32})([\da-f]{32})-[\da-f]{16}-[\da-f]{2}")


class RequestRecord:
    """What is known of one request.

    Attributes:
        method: its HTTP method; None for bytes that are not a request.
        route: its path if that is a route, else "other".
        request_id: the id that it came with, or one of our own.
        started: when its answer began to be the server's matter, by `time.perf_counter`.
        reason: why it was refused, where its status alone does not say so.
        code: which error it was answered with, if that has a code.
        is_ours: whether the body of its answer is our own, not that of BentoML or of an application of the user's.
        is_superseded: whether the connection has answered it with an error in place of the application.
        is_aborted: whether its client left before the whole answer was sent.
    """

    reason = ""
    code = ""
    is_ours = False
    is_superseded = False
    is_aborted = False

    def __init__(self, method: str | None, route: str, request_id: bytes) -> None:
        self.method = method
        self.route = route
        self.request_id = request_id
        self.started = time.perf_counter()

    def restart(self) -> None:
        """Begin to count time now: what a client takes to send is not the server's time."""
        self.started = time.perf_counter()


class Observer:
    """Names each request, counts it, and logs it if it is an error or in the sample.

    Args:
        metrics: counts.
        log: gets the lines.
        sample_rate: the share of successful requests that are logged.

    Attributes:
        metrics: as above.
        routes: paths that may be in metrics and logs; any other is "other".
    """

    def __init__(self, metrics: Metrics, log: Log, sample_rate: float) -> None:
        self.metrics = metrics
        self.routes: Collection[str] = frozenset()
        self._log = log
        self._sample_rate = sample_rate
        self._successes = 0
        self._count = itertools.count(1)
        self._id_format = secrets.token_hex(6).encode() + b"-%d"

    def begin(
        self, method: str | None = None, path: str = "", headers: Mapping[bytes, bytes] | None = None
    ) -> RequestRecord:
        """Return the record of a request, with the id that its client or its trace gave it, or one of our own.

        Args:
            method: its HTTP method.
            path: its path.
            headers: its headers, by their names in lower case.
        """
        headers = headers or {}
        request_id = headers.get(b"x-request-id")
        if not request_id or not _REQUEST_ID.fullmatch(request_id):
            parent = headers.get(b"traceparent")
            trace = _TRACE_ID.fullmatch(parent) if parent else None
            request_id = trace[1] if trace else self._id_format % next(self._count)
        return RequestRecord(method, path if path in self.routes else "other", request_id)

    def observe(self, request: RequestRecord, status: int) -> None:
        """Record that a request was answered, with this HTTP status code."""
        seconds = time.perf_counter() - request.started
        reason = ""
        if status < _BAD_REQUEST:
            level = LogLevel.INFO
        else:
            level = LogLevel.ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else LogLevel.WARNING
            reason = request.reason or reason_of(status)
        self.metrics.observe(request.route, status, seconds, reason)
        if level == LogLevel.INFO and not (self._sample_rate and self._is_sampled()):
            return
        fields = {
            "status": int(status),
            "seconds": round(seconds, 6),
            "reason": reason or None,
            "code": request.code or None,
        }
        self._log.say(level, "request", **_fields(request), **fields)

    def observe_unread(self, seconds: float) -> None:
        """Record a connection that was aborted because its client did not read for so many seconds."""
        self.metrics.observe_unread()
        self._log.say(LogLevel.WARNING, "connection_aborted", seconds=round(seconds, 6), reason=UNREAD)

    def observe_failure(self, request: RequestRecord, error: BaseException) -> None:
        """Log an unforeseen exception, which ended a request."""
        logger.error("request_failed", exc_info=error, extra={"fields": _fields(request)})

    def _is_sampled(self) -> bool:
        self._successes += 1
        return int(self._successes * self._sample_rate) > int((self._successes - 1) * self._sample_rate)


def _fields(request: RequestRecord) -> dict[str, object]:
    return {"request_id": request.request_id.decode(), "method": request.method, "route": request.route}
