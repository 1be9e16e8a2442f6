"""The record of each request: its id, its metrics and its log line."""

import itertools
import re
import secrets
import time
from collections.abc import Mapping
from http import HTTPStatus

from model_server.observability.log import Log, logger
from model_server.observability.metrics import UNREAD, Metrics, reason_of
from volume.log import LogLevel

_REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}")
_BAD_REQUEST = int(HTTPStatus.BAD_REQUEST)  # compares faster than the enum
_TRACE_ID = re.compile(rb"[\da-f]{2}-(?!0{32})([\da-f]{32})-[\da-f]{16}-[\da-f]{2}")


class RequestRecord:
    """The data of one request for logs and metrics.

    Attributes:
        method: the HTTP method; None for bytes that are not a request.
        route: the path if it is a route, else "other".
        request_id: the id from the client or its trace, or a generated one.
        started: the time by `time.perf_counter` from which the server's time is measured.
        reason: the refusal reason, if the status alone does not determine it.
        code: the code of the error that the request was answered with; empty if it has none.
        is_superseded: whether the connection has answered with an error in place of the application.
        is_aborted: whether the client disconnected before the whole answer was sent.
        error_field: the field of an error body that has the sentence.
    """

    error_field = "detail"
    reason = ""
    code = ""
    is_superseded = False
    is_aborted = False

    def __init__(self, method: str | None, route: str, request_id: bytes) -> None:
        self.method = method
        self.route = route
        self.request_id = request_id
        self.started = time.perf_counter()

    def restart(self) -> None:
        """Measure time from now on: the time that a client takes to send the request does not count."""
        self.started = time.perf_counter()


class Sampler:
    """Selects a share of events, evenly spaced.

    Args:
        rate: the share, from 0 to 1.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._events = 0

    def selects_next(self) -> bool:
        """Return whether the next event is in the sample."""
        self._events += 1
        return int(self._events * self._rate) > int((self._events - 1) * self._rate)


class Observer:
    """Gives each request an id, counts it, and logs it if it is an error or in the sample.

    Args:
        metrics: counts the requests.
        log: receives the log lines.
        sample_rate: the share of successful requests that are logged, from 0 to 1.

    Attributes:
        metrics: as above.
        routes: the routes that appear in metrics and logs, by path; every other path is "other".
        error_fields: the field of an error body that has the sentence, by the start of a path; by default "detail".
    """

    def __init__(self, metrics: Metrics, log: Log, sample_rate: float) -> None:
        self.metrics = metrics
        self.routes: Mapping[str, str] = {}
        self.error_fields: dict[str, str] = {}
        self._log = log
        self._sampler = Sampler(sample_rate) if sample_rate else None
        self._count = itertools.count(1)
        self._id_format = secrets.token_hex(6).encode() + b"-%d"

    def begin(
        self, method: str | None = None, path: str = "", headers: Mapping[bytes, bytes] | None = None
    ) -> RequestRecord:
        """Return the record of a request, with the id from its client or its trace, or a generated one.

        Args:
            method: the HTTP method.
            path: the path.
            headers: the headers by lowercase name.
        """
        record = self.begin_known(method, self.routes.get(path, "other"), headers or {})
        for start, field in self.error_fields.items():
            if f"{path}/".startswith(f"{start}/"):
                record.error_field = field
        return record

    def begin_known(self, method: str | None, route: str, headers: Mapping[bytes, bytes]) -> RequestRecord:
        """Return the same record for a request whose route is known."""
        request_id = headers.get(b"x-request-id")
        if not request_id or not _REQUEST_ID.fullmatch(request_id):
            parent = headers.get(b"traceparent")
            trace = _TRACE_ID.fullmatch(parent) if parent else None
            request_id = trace[1] if trace else self._id_format % next(self._count)
        return RequestRecord(method, route, request_id)

    def observe(self, request: RequestRecord, status: int) -> None:
        """Count a request that was answered with an HTTP status code, and log it if needed."""
        seconds = time.perf_counter() - request.started
        reason = ""
        if status < _BAD_REQUEST:
            level = LogLevel.INFO
        else:
            level = LogLevel.ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else LogLevel.WARNING
            # A 5xx without a code comes from the user's own route, so this server has not refused the request.
            reason = request.reason or (reason_of(status) if request.code or level == LogLevel.WARNING else "")
        self.metrics.observe(request.route, status, seconds, reason)
        if level == LogLevel.INFO and not (self._sampler and self._sampler.selects_next()):
            return
        fields = {
            "status": int(status),
            "seconds": round(seconds, 6),
            "reason": reason or None,
            "code": request.code or None,
        }
        self._log.write(level, "request", **_fields(request), **fields)

    def observe_unread(self, seconds: float) -> None:
        """Count and log a connection that was aborted after its client read too slowly for `seconds`."""
        self.metrics.observe_unread()
        self._log.write(LogLevel.WARNING, "connection_aborted", seconds=round(seconds, 6), reason=UNREAD)

    def observe_failure(self, request: RequestRecord, error: BaseException) -> None:
        """Log an unexpected exception that a request raised."""
        logger.error("request_failed", exc_info=error, extra={"fields": _fields(request)})


def _fields(request: RequestRecord) -> dict[str, object]:
    return {"request_id": request.request_id.decode(), "method": request.method, "route": request.route}
