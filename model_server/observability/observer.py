"""What is noted of each request: its id, its numbers, and its line in the log."""

import itertools
import re
import secrets
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from starlette.types import Scope

from model_server.observability.log import Log, logger
from model_server.observability.metrics import UNREAD, Telemetry, reason_of
from volume.log import LogLevel

Header = tuple[bytes, bytes]

_ID = "model_server.request_id"
_REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}")
_TRACE_ID = re.compile(rb"[\da-f]{2}-(?!0{32})([\da-f]{32})-[\da-f]{16}-[\da-f]{2}")
UNKNOWN: Mapping[str, Any] = {"path": "", "method": None, "headers": ()}  # the scope of what is no whole request


class Observer:
    """Names each request, counts it, and logs it if it is an error or in the sample.

    Args:
        telemetry: counts.
        log: gets the lines.
        routes: paths that may stand in metrics and log; any other is "other".
        sample_rate: the share of successful requests that are logged.

    Attributes:
        telemetry: as above.
    """

    def __init__(self, telemetry: Telemetry, log: Log, routes: Collection[str], sample_rate: float) -> None:
        self.telemetry = telemetry
        self._log = log
        self._routes = frozenset(routes)
        self._sample_rate = sample_rate
        self._successes = 0
        self._count = itertools.count(1)
        self._id_format = secrets.token_hex(6).encode() + b"-%d"

    def name(self, scope: Scope, headers: Mapping[bytes, bytes] | None = None) -> Header:
        """Return the header that names a request: as its client or its trace does, or with a name of our own.

        Args:
            scope: of the request; keeps the name.
            headers: those of the scope, if they are at hand.
        """
        known: Header | None = scope.get(_ID)
        if known:
            return known
        if headers is None:
            headers = dict(scope["headers"])
        value = headers.get(b"x-request-id")
        if not value or not _REQUEST_ID.fullmatch(value):
            trace = _TRACE_ID.fullmatch(headers.get(b"traceparent", b""))
            value = trace[1] if trace else self._id_format % next(self._count)
        scope[_ID] = name = (b"x-request-id", value)
        return name

    def observe(self, scope: Scope, status: int, seconds: float, reason: str = "") -> None:
        """Note one answered request.

        Args:
            scope: of the request.
            status: HTTP status code of the answer.
            seconds: time from request to answer.
            reason: why it was refused, where its status alone does not say so.
        """
        reason = reason or reason_of(status)
        route = self._route(scope)
        self.telemetry.observe(route, status, seconds, reason)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            level = LogLevel.ERROR
        elif status >= HTTPStatus.BAD_REQUEST:
            level = LogLevel.WARNING
        elif self._sample_rate and self._is_sampled():
            level = LogLevel.INFO
        else:
            return
        fields = {"status": int(status), "seconds": round(seconds, 6), "reason": reason or None}
        self._log.say(level, "request", **self._fields(scope), **fields)

    def observe_unread(self, seconds: float) -> None:
        """Note a connection that was ended because its client did not read for so many seconds."""
        self.telemetry.observe_unread()
        self._log.say(LogLevel.WARNING, "connection_aborted", seconds=round(seconds, 6), reason=UNREAD)

    def observe_failure(self, scope: Scope) -> None:
        """Log the exception that is being handled, which ended a request."""
        logger.exception("request_failed", extra={"fields": self._fields(scope)})

    def _fields(self, scope: Scope) -> dict[str, object]:
        return {"request_id": self.name(scope)[1].decode(), "method": scope["method"], "route": self._route(scope)}

    def _route(self, scope: Scope) -> str:
        path: str = scope["path"]
        return path if path in self._routes else "other"

    def _is_sampled(self) -> bool:
        self._successes += 1
        return int(self._successes * self._sample_rate) > int((self._successes - 1) * self._sample_rate)
