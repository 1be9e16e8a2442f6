"""HTTP for all sources, based on requests: proxies, certificates, size limits and error messages."""

import io
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from loader import __version__
from loader.errors import IntegrityError, LoadError, PermissionDeniedError, UnreachableError, UsageError
from loader.transfer.retry import TransientError

MAX_RESPONSE_SIZE = 1 << 20
MAX_QUOTE_LENGTH = 200
# Metadata servers: through a proxy, they would return the identity of the proxy's machine.
_NEVER_PROXIED = frozenset({"169.254.169.254", "fd00:ec2::254", "metadata", "metadata.google.internal"})
_PORTS = {"http": 80, "https": 443}


class Adapter(HTTPAdapter):
    """HTTP adapter with the certificates of the system or of `SSL_CERT_FILE`, and the proxies of the environment.

    requests does not read `SSL_CERT_FILE`. With `trust_env` it would replace tokens with those in `~/.netrc` and quote
    proxy passwords in errors; without it, it ignores the proxy variables.
    """

    def __init__(self, connections: int) -> None:
        self._context = ssl.create_default_context()
        self._proxy_headers: dict[str, dict[str, str]] = {}
        super().__init__(pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        """Create the connection pools with the adapter's certificates."""
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:  # noqa: ANN401
        """Create the connection pools of a proxy with the adapter's certificates."""
        return super().proxy_manager_for(proxy, **options, ssl_context=self._context, proxy_ssl_context=self._context)

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return the headers with the credentials for a proxy, which its URL does not contain."""
        return self._proxy_headers.get(proxy, {})

    def cert_verify(self, conn: Any, *_: Any) -> None:  # noqa: ANN401
        """Use the certificates of the SSL context, and do not add those of certifi."""
        conn.cert_reqs = "CERT_REQUIRED"

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:  # noqa: ANN401
        """Send the request through the proxy that the environment sets for its host, if any."""
        url, headers = proxy_for(request.url or "")
        if url:
            self._proxy_headers[url] = headers
        return super().send(request, *arguments, **{**options, "proxies": {"all": url} if url else {}})


def configure_session(session: requests.Session, connections: int) -> None:
    """Configure a session to use `Adapter`, and to ignore the environment otherwise."""
    adapter = Adapter(connections)
    session.trust_env = False
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers["User-Agent"] = f"model-loader/{__version__}"


def proxy_for(url: str) -> tuple[str, dict[str, str]]:
    """Return the proxy that the environment (`HTTPS_PROXY`, `NO_PROXY`) sets for a URL, and the headers for it.

    The URL does not contain credentials, so that no message can quote them. Without a proxy it is empty.

    Raises:
        UsageError: the variable is not the URL of a proxy.
    """
    parts = urlsplit(url)
    bypassed = parts.hostname in _NEVER_PROXIED or proxy_bypass(parts.netloc)
    proxy = "" if bypassed else getproxies().get(parts.scheme, "")
    if not proxy:
        return "", {}
    try:
        parsed = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except HTTPError:
        parsed = urllib3.util.Url()
    torn = "@" in proxy and not parsed.auth  # a # or / in the password: its first half would be parsed as the host
    if parsed.scheme not in ("http", "https") or not parsed.host or torn:
        raise UsageError(
            "proxy-invalid",
            f"{parts.scheme.upper()}_PROXY is not the URL of an HTTP proxy: expected http://host:port or "
            "http://user:password@host:port, with %23 for a # in the password and so on",
        )
    # urllib3 encodes as latin-1, so decoding as latin-1 leaves the bytes of a UTF-8 password as they are.
    auth = unquote(parsed.auth, "latin-1") if parsed.auth else None
    headers = dict(urllib3.make_headers(proxy_basic_auth=auth)) if auth else {}
    return urllib3.util.Url(parsed.scheme, host=parsed.host, port=parsed.port).url, headers


class ErrorTranslator:
    """Translates the errors of requests to one server.

    Args:
        origin: the scheme and the host of the server, for messages.
        stall_seconds: the timeout of the requests.
    """

    def __init__(self, origin: str, stall_seconds: float) -> None:
        self._origin = origin
        self._stall_seconds = stall_seconds

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Translate the errors of requests in the block into `TransientError` or `LoadError`."""
        try:
            yield
        except (requests.RequestException, HTTPError) as error:
            raise self.translate(error) from error

    def translate(self, error: Exception) -> TransientError | LoadError:
        """Return the `TransientError` or `LoadError` for a connection error."""
        error = _cause(error)
        if _is_untrusted(error):
            return UnreachableError(
                "certificate-untrusted",
                f"{self._origin} has a certificate that is not trusted here ({error}): check the CA certificates",
            )
        if isinstance(error, ProxyError) and "failed: 407" in str(error.original_error):
            return PermissionDeniedError("proxy-refused", f"cannot reach {self._origin}: {self.proxy_refusal()}")
        return TransientError("connection-failed", self._reason(error))

    def _reason(self, error: Exception) -> str:
        match error:
            case ProxyError():
                return f"the proxy {self._proxy()} failed ({str(error.original_error).rpartition(': ')[2]})"
            case ReadTimeoutError():
                return f"no data received for {self._stall_seconds:g} s"
            case NameResolutionError():
                return f"the name of {self._origin} cannot be resolved"
            case ConnectTimeoutError() if not isinstance(error, NewConnectionError):
                return f"no connection to {self._origin} within {self._stall_seconds:g} s"
            case IncompleteRead():
                return f"the connection was cut with {error.expected} bytes missing"
        # Errors other than connection errors can quote the request: a header, or a URL with its query.
        is_connection_error = isinstance(error, (HTTPError, OSError)) and not isinstance(
            error, (LocationValueError, requests.RequestException)
        )
        detail = str(error).rpartition(": ")[2] if is_connection_error else type(error).__name__
        return f"the connection to {self._origin} failed ({detail})"

    def proxy_refusal(self) -> str:
        """Return the message for a proxy that answers 407."""
        return (
            f"the proxy {self._proxy() or 'on the way'} requires other credentials (407): set HTTPS_PROXY or "
            "HTTP_PROXY to http://user:password@host:port"
        )

    def _proxy(self) -> str:
        return proxy_for(self._origin)[0]


def is_transient(status: int) -> bool:
    """Return whether a response with this status can be retried."""
    return status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


def server_error(response: requests.Response, reply: str) -> TransientError:
    """Return the `TransientError` for a response, with the delay from its Retry-After header."""
    return TransientError(
        "server-failed", f"the response was {reply}", wait=retry_after(response.headers.get("Retry-After"))
    )


def status_text(response: requests.Response) -> str:
    """Return the status code and reason of a response."""
    return f"{response.status_code} {response.reason or ''}".strip()


def read_bounded(response: requests.Response) -> bytes:
    """Read at most 1 MiB of a response and return it; the response can then be read again from memory."""
    content = b""
    while len(content) < MAX_RESPONSE_SIZE and (data := response.raw.read1(MAX_RESPONSE_SIZE, decode_content=True)):
        content += data
    response.close()
    response.raw = io.BytesIO(content)
    return content


@contextmanager
def body_reader(response: requests.Response) -> Iterator[Callable[[int], bytes]]:
    """Yield a function that returns the next bytes of a response, at most the given number; none at the end."""
    raw = response.raw
    try:
        yield partial(raw.read1, decode_content=False)
    finally:
        if raw.length_remaining == 0:
            raw.read()  # reads nothing, but allows the connection to be reused
            raw.release_conn()
        else:
            response.close()


def check_range(response: requests.Response, start: int, end: int, size: int) -> None:
    """Raise a `TransientError` unless the response contains exactly the bytes from `start` to before `end`."""
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        found = response.headers.get("Content-Range", "no range")
    else:
        found = f"bytes 0-{size - 1}/{response.headers.get('Content-Length', size)}"
    expected = f"bytes {start}-{end - 1}/{size}"
    if found != expected:
        raise TransientError("range-wrong", f"the response has {found}, expected {expected}", kind=IntegrityError)
    if response.raw.length_remaining not in (None, end - start):
        raise TransientError(
            "range-wrong",
            f"the response has {response.raw.length_remaining} bytes, expected {end - start}",
            kind=IntegrityError,
        )


@contextmanager
def range_reader(response: requests.Response, start: int, end: int, size: int) -> Iterator[Callable[[int], bytes]]:
    """Yield a reader for a range, as `body_reader` does for a whole response.

    If the response is the whole file, the bytes before `start` are skipped.
    """
    is_whole = response.status_code == HTTPStatus.OK
    check_range(response, 0 if is_whole else start, size if is_whole else end, size)
    with body_reader(response) as read:
        left = start if is_whole else 0
        while left and (data := read(min(left, MAX_RESPONSE_SIZE))):
            left -= len(data)
        yield read


def retry_after(text: str | None) -> float:
    """Return the delay in seconds from a `Retry-After` header, which contains a number or a date."""
    if text is None:
        return 0.0
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (OverflowError, TypeError, ValueError):
        return 0.0


def _cause(error: Exception) -> Exception:
    """Return the error of urllib3 that requests or a MaxRetryError wraps."""
    while isinstance(error, (requests.RequestException, MaxRetryError)):
        inner = error.reason if isinstance(error, MaxRetryError) else next(iter(error.args), None)
        if not isinstance(inner, Exception):
            break
        error = inner
    if isinstance(error, ProtocolError) and isinstance(error.args[-1], IncompleteRead):
        return error.args[-1]
    return error


def _is_untrusted(error: Exception) -> bool:
    return isinstance(error, SSLError) and any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args)
