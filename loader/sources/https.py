"""A model on a web server, such as Hugging Face's, or behind a presigned URL.

A web server keeps no checksum, so a load from it takes one from a setting. The query of a URL may be its secret: it is
sent, and shown nowhere.
"""

import ipaddress
import posixpath
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import requests

from loader.checksums import Digest
from loader.errors import IntegrityError, LoadError, NotFoundError, PermissionDeniedError, ReplacedError
from loader.progress import Progress
from loader.settings import Settings
from loader.sources.base import ObjectVersion, Source
from loader.transfer.journal import Journal
from loader.transfer.ranges import RangeDownload, workers_for
from loader.transfer.retry import Backoff, Setback
from loader.transfer.web import Failures, check_range, passes, prepare, proxy_of, reading, server_failure, status_of
from loader.watchdog import Deadline

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5


class HttpsSource(Source):
    """Files, by `https://` URLs; a version is an entity tag, or else the time of the last change."""

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._deadline = deadline
        self._progress = progress
        self._token = settings.https_token
        self._workers = settings.download_workers
        self._stall_seconds = settings.stall_timeout_seconds
        self._session = requests.Session()
        prepare(self._session, self._workers or workers_for(1 << 62))
        # By the URI that is shown: the URL that is asked, and whether its server has ranges.
        self._urls: dict[str, str] = {}
        self._has_ranges: dict[str, bool] = {}

    @property
    def credentials(self) -> str:
        """Whether `HTTPS_TOKEN` is sent."""
        return "HTTPS_TOKEN" if self._token else "none"

    def look_up(self, uri: str, version: str) -> ObjectVersion:
        """Return the file as the first byte of it is answered: not every server, nor every presigned URL, has HEAD."""
        shown = _without_query(uri)
        self._urls[shown] = uri
        backoff = Backoff(f"cannot look up {shown}", self._deadline, self._progress)
        while True:
            try:
                with self._get(shown, f"cannot look up {shown}", {"Range": "bytes=0-0"}) as response:
                    found = self._version(shown, response)
            except Setback as setback:
                backoff.pause(setback)
            else:
                if version not in ("", found.version):
                    raise NotFoundError(
                        "version-missing", f"{shown} has the version {found.version} now, not {version}"
                    )
                return found

    def beside(self, uri: str, location: str) -> str:
        """Return the URL of a file beside another; the query stays with that one."""
        parts = urlsplit(uri)
        path = posixpath.join(posixpath.dirname(parts.path), quote(location))
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Fetch the file in ranges, or where the server has none, all of it at once."""
        has_ranges = self._has_ranges[found.uri]
        workers = self._workers or workers_for(found.size)
        notes = Journal(journal, found, target)
        download = RangeDownload(
            partial(self._read, found), notes, workers if has_ranges else 1, self._deadline, self._progress
        )
        return download.run() if has_ranges else download.run(pieces_per_request=notes.count)

    def _version(self, uri: str, response: requests.Response) -> ObjectVersion:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise IntegrityError(
                "object-compressed",
                f"{uri} comes with Content-Encoding {response.headers['Content-Encoding']}, so its bytes are not "
                "those of the model: serve it without",
            )
        has_ranges = response.status_code == HTTPStatus.PARTIAL_CONTENT
        text = response.headers.get("Content-Range", "").rpartition("/")[2] if has_ranges else ""
        size = text or response.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise LoadError(
                "answer-unexpected", f"{uri} has no length: expected a file, from a server that says its size"
            )
        self._has_ranges[uri] = has_ranges
        etag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
        return ObjectVersion(uri, int(size), etag or response.headers.get("Last-Modified", "unknown"))

    @contextmanager
    def _read(self, found: ObjectVersion, start: int, end: int) -> Iterator[Callable[[int], bytes]]:
        whole = not self._has_ranges[found.uri]
        headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        with self._get(found.uri, f"cannot read {found.uri}", headers, gone=found.uri) as response:
            if self._version(found.uri, response).version != found.version:
                raise ReplacedError(
                    "object-replaced", f"{found.uri} was overwritten while it was loaded: load it again"
                )
            check_range(response, 0 if whole else start, end, found.size)
            with reading(response) as read:
                if whole:
                    _skip(read, start)
                yield read

    @contextmanager
    def _get(self, uri: str, action: str, headers: dict[str, str], gone: str = "") -> Iterator[requests.Response]:
        """Ask for a file, wherever that leads, and yield the answer, which has the file or a part of it."""
        url = self._urls[uri]
        home = urlsplit(url).netloc
        headers = {**headers, "Accept-Encoding": "identity"}
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            failures = Failures(f"{parts.scheme}://{parts.netloc}", self._stall_seconds)
            token = {"Authorization": f"Bearer {self._token}"} if self._token and parts.netloc == home else {}
            with failures.raised():
                response = self._session.get(
                    url, headers={**headers, **token}, stream=True, timeout=self._stall_seconds, allow_redirects=False
                )
                try:
                    if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                        yield response
                        return
                    if response.status_code not in _REDIRECTS:
                        _refuse(response, action, failures, gone)
                    url = urljoin(url, response.headers.get("Location", ""))
                    self._check_redirect(url, home, action)
                finally:
                    response.close()
        raise LoadError("redirect-refused", f"{action}: redirected more than {_MOST_REDIRECTS} times")

    def _check_redirect(self, url: str, home: str, action: str) -> None:
        """Raise `LoadError` for a redirection to another scheme, or from elsewhere into this machine or its network."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port = "", None
        if parts.scheme != "https" or not host or "@" in parts.netloc:
            raise LoadError(
                "redirect-refused", f"{action}: redirected to {parts.scheme}://, expected https:// and a host"
            )
        if parts.netloc == home:
            return
        for address in _addresses(host, port or 443, by_name=not proxy_of(url)[0]):
            if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
                raise LoadError(
                    "redirect-refused", f"{action}: redirected to {host}, an address of this machine or of its network"
                )


def _addresses(host: str, port: int, *, by_name: bool) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Yield the addresses of a host; a name is left to the proxy, if one is used."""
    try:
        flags = 0 if by_name else socket.AI_NUMERICHOST
        for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
            found = ipaddress.ip_address(str(address[0]).partition("%")[0])
            yield getattr(found, "ipv4_mapped", None) or found
    except (OSError, UnicodeError) as error:
        if not by_name:
            return
        raise Setback("connection-failed", f"the name of {host} cannot be resolved") from error


def _without_query(uri: str) -> str:
    return uri.partition("#")[0].partition("?")[0]


def _skip(read: Callable[[int], bytes], count: int) -> None:
    while count and (data := read(min(count, 1 << 20))):
        count -= len(data)


def _refuse(response: requests.Response, action: str, failures: Failures, gone: str) -> NoReturn:
    told = status_of(response)
    match response.status_code:
        case 404 | 410 | 412 if gone:
            raise ReplacedError(
                "object-replaced", f"{gone} was overwritten or deleted while it was loaded: load it again"
            )
        case 404 | 410:
            raise NotFoundError("object-missing", f"{action}: {told}: check the URL")
        case 401 | 403:
            raise PermissionDeniedError(
                "access-denied", f"{action}: {told}: check HTTPS_TOKEN, or whether the presigned URL has expired"
            )
        case 407:
            raise PermissionDeniedError("proxy-refused", f"{action}: {failures.proxy_refusal()}")
        case 416:
            raise IntegrityError("range-wrong", f"{action}: {told}: the file has fewer bytes than it had at first")
        case code if passes(code):
            raise server_failure(response, told)
    raise LoadError("answer-unexpected", f"{action}: the answer was {told}, expected a file: check the URL")
