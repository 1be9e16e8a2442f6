"""HTTP errors. The body of each is `{"detail": "<one sentence>"}`; below /v2, `{"error": "<one sentence>"}`."""

import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from bentoml.exceptions import BentoMLException, InvalidArgument
from starlette.exceptions import HTTPException

from model_server.observability.metrics import UNAVAILABLE
from model_server.protocols.protocol import Headers

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected before the answer
SERVER_FAILED = "The server failed to answer; its log says why."
NOT_READY = "The service reports that it is not ready."
RETRY_SOON: Headers = ((b"retry-after", b"1"),)
_MAX_SHOWN_CHARACTERS = 80
_MAX_SHOWN_ERRORS = 3
_STATUSES = {status for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST}


class RequestError(InvalidArgument):
    """A refused request, as one of BentoML's errors.

    Attributes:
        detail: one sentence for the client that says what was wrong and what was expected.
        status: HTTP status code, 4xx or 5xx.
        headers: additional response headers.
        code: a short name for the error, for logs.
        reason: the reason for metrics, if the status alone does not determine it.
    """

    reason = ""

    def __init__(self, detail: str, status: int = 400, headers: Headers = (), code: str = "") -> None:
        super().__init__(detail, error_code=HTTPStatus(status))
        self.detail = detail
        self.status = status
        self.headers = headers
        self.code = code


def from_raised_error(error: BentoMLException | HTTPException, route: str) -> RequestError:
    """Return the answer to a request whose method has raised one of BentoML's errors or an `HTTPException`.

    The status is kept. Message and headers are kept only for a 4xx, because those of a 5xx may expose internals.
    """
    headers: Headers = ()
    if isinstance(error, HTTPException):
        status = error.status_code
        message = _error_sentence(json.dumps({"detail": error.detail}, default=str).encode())
        headers = tuple(
            (name.lower().encode("latin-1", "replace"), " ".join(value.split()).encode("latin-1", "replace"))
            for name, value in (error.headers or {}).items()
        )
    elif isinstance(error, RequestError):
        if error.code:  # one of this package's
            return error
        status, message, headers = error.status, str(error), error.headers
    else:
        status, message = error.error_code, str(error)
    if status not in _STATUSES:  # not an error, or unknown
        return RequestError(SERVER_FAILED, HTTPStatus.INTERNAL_SERVER_ERROR)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return RequestError(SERVER_FAILED, status)
    return RequestError(
        " ".join(message.split()) or f"POST {_quoted(route)} was refused with {status:d}.", status, headers
    )


def busy() -> RequestError:
    """Return the refusal of a request that exceeds the limit of requests or bytes in flight."""
    return RequestError(
        "The server already has as many requests as it can answer soon; send this one again later.",
        HTTPStatus.SERVICE_UNAVAILABLE,
        RETRY_SOON,
        "busy",
    )


def stopping() -> RequestError:
    """Return the answer to a request that the stopping server cannot complete."""
    detail = "The server is stopping; send the request again."
    return unavailable(detail, "stopping", RETRY_SOON)


def stuck() -> RequestError:
    """Return the answer to probes while overdue inferences occupy every thread."""
    detail = "Inferences that exceeded their time limit occupy all threads, so the server cannot start another one."
    return unavailable(detail, "stuck")


def unavailable(detail: str, code: str, headers: Headers = ()) -> RequestError:
    """Return the answer to a request while the server cannot answer any."""
    error = RequestError(detail, HTTPStatus.SERVICE_UNAVAILABLE, headers, code)
    error.reason = UNAVAILABLE
    return error


def no_memory() -> RequestError:
    """Return the answer to a request that the server does not have enough memory for."""
    detail = "The server does not have enough memory for this request."
    return RequestError(detail, HTTPStatus.SERVICE_UNAVAILABLE, code="no-memory")


def too_large(max_body_bytes: int) -> RequestError:
    """Return the refusal of a body that exceeds the size limit."""
    return RequestError(
        f"The body is larger than {max_body_bytes} bytes; send the rows in several requests.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code="body-too-large",
    )


def check_headers(headers: Mapping[bytes, bytes], media_types: Collection[bytes]) -> None:
    """Check that the headers of a request declare an uncompressed body of a supported media type, JSON in UTF-8.

    A request without a media type is JSON.

    Raises:
        RequestError: the headers declare a different media type, charset or encoding.
    """
    content_type = headers.get(b"content-type", b"application/json")
    if content_type != b"application/json":
        media_type, _, parameters = content_type.lower().partition(b";")
        charset = parameters.partition(b"charset=")[2].strip(b'" ')
        if media_type.strip() not in media_types or charset not in (b"", b"utf-8", b"utf8"):
            others = (name.decode() for name in media_types if name != b"application/json")
            raise _unsupported("Content-Type", content_type, " or ".join(("application/json in UTF-8", *others)))
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise _unsupported("Content-Encoding", encoding, "an uncompressed body")


def error_body(detail: str, field: str = "detail") -> bytes:
    """Return the body of an error answer, with the sentence in this field."""
    return orjson.dumps({field: detail})


def not_found(method: str, path: str) -> RequestError:
    """Return the answer to a request that no route matches."""
    return RequestError(
        f"There is no {method} {_quoted(path)}; /docs.json lists all routes.",
        HTTPStatus.NOT_FOUND,
        code="not-found",
    )


def no_model(kind: str, found: str, expected: str) -> RequestError:
    """Return the answer to a request for another model, or another version of it, than the served one."""
    return RequestError(
        f'There is no {kind} "{_quoted(found)}"; expected "{expected}".', HTTPStatus.NOT_FOUND, code="no-model"
    )


def no_classes(path: str) -> RequestError:
    """Return the answer of a route for class names while the model has no classes."""
    return RequestError(
        f"{_quoted(path)} is for models with classes; this model predicts values: use POST /predict.",
        HTTPStatus.NOT_FOUND,
        code="no-classes",
    )


def app_error_detail(method: str, path: str, status: int, headers: Mapping[bytes, bytes], body: bytes) -> str:
    """Return the sentence for an error answer from BentoML, FastAPI or the user's application.

    The text of a 4xx is kept; that of a 5xx is replaced, because it may expose internals.
    """
    if status == HTTPStatus.SERVICE_UNAVAILABLE and path.endswith(("/readyz", "/ready")):
        return NOT_READY
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SERVER_FAILED
    sentence = _error_sentence(body)
    if status == HTTPStatus.METHOD_NOT_ALLOWED and sentence in ("", HTTPStatus.METHOD_NOT_ALLOWED.phrase):
        allowed = headers.get(b"allow", b"no method").decode("latin-1")
        return f"{method} {_quoted(path)} is not allowed; expected {allowed}."
    return sentence or f"{method} {_quoted(path)} was refused with {status}."


def _error_sentence(body: bytes) -> str:
    """Return the message in an error body, for the formats of the common frameworks; empty if there is none."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = body.decode(errors="replace")
        if "<" in document:  # HTML
            return ""
    if isinstance(document, list) and len(document) == 1:  # BentoML's format
        document = document[0]
    if isinstance(document, dict):
        detail = document.get("detail") or document.get("error") or document
        if isinstance(detail, list):  # pydantic's format
            detail = "; ".join(map(_validation_problem, detail[:_MAX_SHOWN_ERRORS]))
        elif isinstance(detail, dict):
            detail = "; ".join(f"{name}: {_shown(value)}" for name, value in [*detail.items()][:_MAX_SHOWN_ERRORS])
        document = detail
    return " ".join(document.split()) if isinstance(document, str) else ""


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)[:_MAX_SHOWN_CHARACTERS]


def _validation_problem(error: object) -> str:
    if not isinstance(error, dict):
        return str(error)
    return f"{'.'.join(map(str, error.get('loc', ())))}: {error.get('msg', 'invalid')}".removeprefix(": ")


def _unsupported(header: str, value: bytes, expected: str) -> RequestError:
    found = value.decode("latin-1")[:_MAX_SHOWN_CHARACTERS]
    return RequestError(
        f"The {header} is {found!r}; expected {expected}.",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ((b"accept", b"application/json"),),
        "media-type",
    )


def _quoted(path: str) -> str:
    return quote(path[:_MAX_SHOWN_CHARACTERS])
