"""Two requests of the Cloud Storage JSON API: an object's metadata, and a range of its bytes.

google-cloud-storage could send them too, but its import alone takes longer than a whole small load, and its download
more CPU: benchmarks/loader has the figures.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec
import urllib3
from msgspec import Meta, Struct
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from loader import __version__
from loader.errors import (
    IntegrityError,
    LoadError,
    NotFoundError,
    PermissionDeniedError,
    ReplacedError,
    UnreachableError,
    UsageError,
)
from loader.sources.base import ObjectVersion
from loader.transfer.retry import Setback

if TYPE_CHECKING:
    from loader.sources.gcs_credentials import Credentials

_MAX_ANSWER = 64 << 10
_MAX_QUOTE = 200


class ObjectMetadata(Struct, rename="camel"):
    """The part of an object resource that a download needs."""

    size: Annotated[int, Meta(ge=0)]
    generation: int
    crc32c: str
    content_encoding: str = ""


class _Refusal(Struct):
    error: "_RefusalError"


class _RefusalError(Struct):
    message: str


class GcsClient:
    """A connection pool to one Cloud Storage endpoint.

    Args:
        endpoint: scheme and host.
        anonymous: whether to send requests without credentials, instead of the application default ones.
        stall_seconds: how long to wait for a connection, and for each next bytes.
        connections: how many to keep open.
    """

    def __init__(self, endpoint: str, *, anonymous: bool, stall_seconds: float, connections: int) -> None:
        self._endpoint = endpoint
        self._stall_seconds = stall_seconds
        self._proxy, proxy_headers = _proxy(endpoint)
        manager = (
            partial(urllib3.ProxyManager, self._proxy, proxy_headers=proxy_headers)
            if self._proxy
            else urllib3.PoolManager
        )
        self._pool = manager(
            maxsize=connections,
            timeout=urllib3.Timeout(connect=stall_seconds, read=stall_seconds),
            retries=False,
            headers={"User-Agent": f"model-loader/{__version__}"},
        )
        self._credentials = None if anonymous else _default_credentials(self._pool)

    @property
    def credentials(self) -> str:
        """What kind of credentials requests are sent with, without any secret."""
        return self._credentials.kind if self._credentials else "none"

    def metadata(self, bucket: str, name: str, generation: str) -> ObjectMetadata:
        """Return the metadata of the object's generation, by default of the newest.

        Raises:
            LoadError: there is no such object, it may not be read, or it cannot be verified.
            Setback: the request failed in a way that may pass.
        """
        uri = f"gs://{bucket}/{name}"
        query = "fields=size,generation,crc32c,contentEncoding"
        if generation:
            uri += f"#{generation}"
            query += f"&generation={generation}"
        url = f"{self._endpoint}/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}?{query}"
        with self._get(url, {}) as response:
            if response.status != HTTPStatus.OK:
                self._refuse(response, f"cannot look up {uri}")
            answer = _read(response)
        try:
            metadata = msgspec.json.decode(answer, type=ObjectMetadata, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreachableError(
                "answer-invalid",
                f"cannot look up {uri}: the answer of {self._endpoint} is no object metadata ({error}): "
                "check GCS_ENDPOINT, STORAGE_EMULATOR_HOST and proxies",
            ) from error
        if metadata.content_encoding not in ("", "identity"):
            raise IntegrityError(
                "object-compressed",
                f"{uri} is stored with Content-Encoding {metadata.content_encoding}, so its checksum is not that of "
                "the model: upload it without",
            )
        return metadata

    @contextmanager
    def read(
        self, bucket: str, name: str, found: ObjectVersion, start: int, end: int
    ) -> Iterator[Callable[[int], bytes]]:
        """Request the object's bytes from `start` up to, not including, `end`.

        Yields:
            A function that returns the next bytes, as soon as there are some and at most as many as it is told;
            none at all when the stream has ended.

        Raises:
            ReplacedError: the object's generation is not there any more.
            LoadError: the object may not be read.
            Setback: the request failed, or the stream broke, in a way that may pass.
        """
        url = (
            f"{self._endpoint}/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
            f"?alt=media&generation={found.version}"
        )
        with self._get(url, {"Range": f"bytes={start}-{end - 1}"}) as response:
            if response.status in (HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED):
                raise ReplacedError(
                    "object-replaced", f"{found.uri} was overwritten or deleted while it was loaded: load it again"
                )
            if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                self._refuse(response, f"cannot read {found.uri}")
            generation = response.headers.get("X-Goog-Generation", found.version)
            if generation != found.version:
                raise ReplacedError(
                    "object-replaced",
                    f"{found.uri} was overwritten with generation {generation} while it was loaded",
                )
            _check_range(response, start, end, found.size)
            yield partial(response.read1, decode_content=False)

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        if self._credentials:
            self._credentials.authorize(url, headers)
        try:
            response = self._pool.request(
                "GET", url, headers={**self._pool.headers, **headers}, preload_content=False, redirect=False
            )
            try:
                yield response
            finally:
                if response.length_remaining == 0:
                    response.read()  # of nothing: only then can the connection take the next request
                    response.release_conn()
                else:
                    response.close()
        except HTTPError as error:
            if _is_untrusted(error):
                raise UnreachableError(
                    "certificate-untrusted",
                    f"{self._endpoint} has a certificate that is not trusted here ({error}): check the CA certificates",
                ) from error
            if isinstance(error, ProxyError) and "failed: 407" in str(error.original_error):
                raise PermissionDeniedError(
                    "proxy-refused", f"cannot reach {self._endpoint}: {self._proxy_refusal()}"
                ) from error
            raise Setback("connection-failed", self._reason(error)) from error

    def _reason(self, error: HTTPError) -> str:
        match error:
            case ProxyError():
                return f"the proxy {self._proxy} failed ({str(error.original_error).rpartition(': ')[2]})"
            case ReadTimeoutError():
                return f"nothing came for {self._stall_seconds:g} s"
            case NameResolutionError():
                return f"the name of {self._endpoint} cannot be resolved"
            case ConnectTimeoutError() if not isinstance(error, NewConnectionError):
                return f"no connection to {self._endpoint} within {self._stall_seconds:g} s"
            case IncompleteRead():
                return f"the connection was cut with {error.expected} bytes to come"
        return f"the connection to {self._endpoint} failed ({str(error).rpartition(': ')[2]})"

    def _proxy_refusal(self) -> str:
        return (
            f"the proxy {self._proxy or 'on the way'} asks for other credentials (407): set HTTPS_PROXY or HTTP_PROXY "
            "to http://user:password@host:port"
        )

    def _refuse(self, response: urllib3.BaseHTTPResponse, action: str) -> NoReturn:
        status = f"{response.status} {response.reason or ''}".strip()
        try:
            said = msgspec.json.decode(_read(response), type=_Refusal).error.message
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = ""
        told = f"{status} ({said.partition(chr(10))[0][:_MAX_QUOTE]})" if said and said != response.reason else status
        match response.status:
            case 401:
                raise PermissionDeniedError(
                    "credentials-refused",
                    f"{action}: {told}: the credentials are missing, expired or of another project; check them",
                )
            case 403:
                raise PermissionDeniedError(
                    "access-denied",
                    f"{action}: {told}: grant storage.objects.get (roles/storage.objectViewer) to the loader's "
                    "identity, and check that the object exists",
                )
            case 404:
                raise NotFoundError(
                    "object-missing", f"{action}: {told}: check the bucket, the object's name and its generation"
                )
            case 407:
                raise PermissionDeniedError("proxy-refused", f"{action}: {self._proxy_refusal()}")
            case 416:
                raise IntegrityError(
                    "range-wrong", f"{action}: {told}: the object has fewer bytes than its metadata says"
                )
            case code if code in (408, 429) or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise Setback("server-failed", f"the answer was {told}", wait=_retry_after(response))
        raise LoadError(
            "answer-unexpected", f"{action}: the answer was {told}, expected the object: check the settings"
        )


def _default_credentials(pool: urllib3.PoolManager) -> "Credentials":
    from loader.sources.gcs_credentials import Credentials  # noqa: PLC0415 (its imports take 0.2 s)

    return Credentials(pool)


def _proxy(endpoint: str) -> tuple[str, dict[str, str]]:
    """Return the proxy that the environment (`HTTPS_PROXY`, `NO_PROXY`) sets for the endpoint, and its headers.

    The URL is without the credentials, so that no message can quote them; it is empty when there is no proxy.
    """
    parts = urlsplit(endpoint)
    proxy = "" if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme, "")
    if not proxy:
        return "", {}
    try:
        url = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except HTTPError:
        url = urllib3.util.Url()
    torn = "@" in proxy and not url.auth  # by a # or / in the password, whose first half would pass for host and port
    if url.scheme not in ("http", "https") or not url.host or torn:
        raise UsageError(
            "proxy-invalid",
            f"{parts.scheme.upper()}_PROXY is no URL of an HTTP proxy: expected http://host:port or "
            "http://user:password@host:port, with %23 for a # in the password and so on",
        )
    # urllib3 encodes as latin-1, so decoding as latin-1 leaves the bytes of a UTF-8 password as they are.
    headers = dict(urllib3.make_headers(proxy_basic_auth=unquote(url.auth, "latin-1"))) if url.auth else {}
    return urllib3.util.Url(url.scheme, host=url.host, port=url.port).url, headers


def _check_range(response: urllib3.BaseHTTPResponse, start: int, end: int, size: int) -> None:
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        found = response.headers.get("Content-Range", "no range")
    else:
        found = f"bytes 0-{size - 1}/{response.headers.get('Content-Length', size)}"
    expected = f"bytes {start}-{end - 1}/{size}"
    if found != expected:
        raise Setback("range-wrong", f"the answer has {found}, expected {expected}", kind=IntegrityError)
    if response.length_remaining not in (None, end - start):
        raise Setback(
            "range-wrong",
            f"the answer has {response.length_remaining} bytes, expected {end - start}",
            kind=IntegrityError,
        )


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    answer = b""
    while len(answer) < _MAX_ANSWER and (data := response.read1(_MAX_ANSWER)):
        answer += data
    return answer


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds of a `Retry-After` header, which holds a number or a date."""
    text = response.headers.get("Retry-After", "0")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (OverflowError, TypeError, ValueError):
        return 0.0


def _is_untrusted(error: HTTPError) -> bool:
    return isinstance(error, SSLError) and any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args)
