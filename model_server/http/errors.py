"""Errors over HTTP: every one is `{"detail": "<one sentence>"}`."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from bentoml.exceptions import InvalidArgument

from model_server.model.rows import InvalidRowsError
from model_server.observability.metrics import UNAVAILABLE
from model_server.protocols.json_body import BodyError, sentence_of

Headers = Sequence[tuple[bytes, bytes]]

CLIENT_CLOSED_REQUEST = 499  # nginx's status for an answer that nobody waited for
SERVER_FAILED = "The server failed to answer; its log says why."
RETRY_SOON: Headers = ((b"retry-after", b"1"),)
_SHOWN = 80
_MOST_ERRORS = 3


class RequestError(InvalidArgument):
    """A request that is refused; BentoML takes it for one of its own errors.

    Attributes:
        detail: one sentence for the client: what was wrong and what was expected.
        status: HTTP status code, 4xx or 5xx.
        headers: extra response headers.
        code: a short name for the error, for logs.
        reason: why it was refused, for metrics, where the status alone does not say so.
    """

    reason = ""

    def __init__(self, detail: str, status: int = 400, headers: Headers = (), code: str = "") -> None:
        super().__init__(detail, error_code=HTTPStatus(status))
        self.detail = detail
        self.status = status
        self.headers = headers
        self.code = code


def invalid(error: BodyError | InvalidRowsError, field: str) -> RequestError:
    """Return the refusal of a body, whose rows are in that field."""
    if isinstance(error, InvalidRowsError):
        return RequestError(sentence_of(error, field), code="rows-invalid")
    return RequestError(str(error), code=error.code)


def busy() -> RequestError:
    """Return the refusal of a request that would be one too many."""
    return RequestError(
        "The server has as many requests as it can answer soon; send this one again later.",
        HTTPStatus.SERVICE_UNAVAILABLE,
        RETRY_SOON,
        "busy",
    )


def stopping() -> RequestError:
    """Return the answer to what the server has no time for any more."""
    detail = "The server is stopping; send the request again."
    return unavailable(detail, "stopping", RETRY_SOON)


def stuck() -> RequestError:
    """Return the answer to probes while the server can answer no others."""
    return unavailable(
        "Every inference takes longer than a request may; the server answers no others meanwhile.", "stuck"
    )


def unavailable(detail: str, code: str, headers: Headers = ()) -> RequestError:
    """Return an answer for while the server cannot answer any request."""
    error = RequestError(detail, HTTPStatus.SERVICE_UNAVAILABLE, headers, code)
    error.reason = UNAVAILABLE
    return error


def no_memory() -> RequestError:
    """Return the answer to a request that memory was too short for."""
    detail = "The server has no memory for this request."
    return RequestError(detail, HTTPStatus.SERVICE_UNAVAILABLE, code="no-memory")


def too_large(max_body_bytes: int) -> RequestError:
    """Return the refusal of a body that is larger than the limit."""
    return RequestError(
        f"The body is larger than {max_body_bytes} bytes; send the rows in several requests.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code="body-too-large",
    )


def check_headers(headers: Mapping[bytes, bytes]) -> None:
    """Check that a body is uncompressed JSON in UTF-8, by the headers of its request.

    Raises:
        RequestError: it is not.
    """
    content_type = headers.get(b"content-type", b"application/json")
    if content_type != b"application/json":
        media_type, _, parameters = content_type.lower().partition(b";")
        charset = parameters.partition(b"charset=")[2].strip(b'" ')
        if media_type.strip() != b"application/json" or charset not in (b"", b"utf-8", b"utf8"):
            raise _unsupported("Content-Type", content_type, "application/json in UTF-8")
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise _unsupported("Content-Encoding", encoding, "an uncompressed body")


def error_body(detail: str) -> bytes:
    """Return the body of an error."""
    return orjson.dumps({"detail": detail})


def not_found(method: str, path: str) -> RequestError:
    """Return the answer where no route matches."""
    return RequestError(
        f"There is no {method} {_quoted(path)}; /docs.json lists what there is.",
        HTTPStatus.NOT_FOUND,
        code="not-found",
    )


def no_classes(path: str) -> RequestError:
    """Return the answer of a route for class names while the model has no classes."""
    return RequestError(
        f"{_quoted(path)} is for models with classes; this one gives values: POST /predict has them.",
        HTTPStatus.NOT_FOUND,
        code="no-classes",
    )


def foreign_detail(method: str, path: str, status: int, headers: Mapping[bytes, bytes], body: bytes) -> str:
    """Return the sentence for an error that BentoML, FastAPI or an application of the user's has answered with.

    The words of a 4xx are kept, those of a 5xx are not: they may name internals.
    """
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SERVER_FAILED
    said = _words(body)
    if status == HTTPStatus.METHOD_NOT_ALLOWED and said in ("", HTTPStatus.METHOD_NOT_ALLOWED.phrase):
        allowed = headers.get(b"allow", b"no method").decode("latin-1")
        return f"{method} {_quoted(path)} is not allowed; expected {allowed}."
    return said or f"{method} {_quoted(path)} was refused with {status}."


def _words(body: bytes) -> str:
    """Return the one sentence of an error's body, in any of the shapes that frameworks give it."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = body.decode(errors="replace")
        if "<" in document:  # a page
            return ""
    if isinstance(document, list) and len(document) == 1:  # BentoML's
        document = document[0]
    if isinstance(document, dict):
        detail = document.get("detail") or document.get("error")
        if isinstance(detail, list):  # pydantic's
            detail = "; ".join(map(_validation_problem, detail[:_MOST_ERRORS]))
        document = detail
    return " ".join(document.split()) if isinstance(document, str) else ""


def _validation_problem(error: object) -> str:
    if not isinstance(error, dict):
        return str(error)
    return f"{'.'.join(map(str, error.get('loc', ())))}: {error.get('msg', 'invalid')}".removeprefix(": ")


def _unsupported(header: str, value: bytes, expected: str) -> RequestError:
    found = value.decode("latin-1")[:_SHOWN]
    return RequestError(
        f"The {header} is {found!r}; expected {expected}.",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ((b"accept", b"application/json"),),
        "media-type",
    )


def _quoted(path: str) -> str:
    return quote(path[:_SHOWN])
