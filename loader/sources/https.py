"""A model on a web server such as Hugging Face, or at a presigned URL.

Web servers provide no checksums, so a setting must pin the sha256. The query of a URL can be secret: it is sent to the
server, but never logged or stored.
"""

import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import requests

from loader.checksums import Digest
from loader.errors import IntegrityError, LoadError, NotFoundError, PermissionDeniedError, ReplacedError, UsageError
from loader.progress import Progress
from loader.settings import Settings
from loader.sources.base import ObjectVersion, Source
from loader.transfer.journal import Journal
from loader.transfer.ranges import RangeDownload, workers_for
from loader.transfer.redirects import RedirectingClient
from loader.transfer.retry import Backoff, TransientError
from loader.transfer.web import (
    ErrorTranslator,
    configure_session,
    is_transient,
    range_reader,
    server_error,
    status_text,
)
from loader.watchdog import Deadline


class HttpsSource(Source):
    """Files with `https://` URLs; a version is the entity tag or, without one, the Last-Modified header."""

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._deadline = deadline
        self._progress = progress
        self._token = settings.https_token
        self._workers = settings.download_workers
        session = requests.Session()
        configure_session(session, self._workers or workers_for(1 << 62))
        self._client = RedirectingClient(session, settings.stall_timeout_seconds)
        # Keyed by the URI without its query: the full URL, and whether its server supports ranges.
        self._urls: dict[str, str] = {}
        self._has_ranges: dict[str, bool] = {}

    @property
    def credentials(self) -> str:
        """Whether `HTTPS_TOKEN` is sent."""
        return "HTTPS_TOKEN" if self._token else "none"

    def resolve(self, uri: str, version: str) -> ObjectVersion:
        """Return the file's version from a request for its first byte, as not all servers and URLs support HEAD."""
        shown = _without_query(uri)
        if self._urls.setdefault(shown, uri) != uri:
            raise UsageError(
                "settings-invalid", f"two URIs differ only in their queries ({shown}): expected different paths"
            )
        backoff = Backoff(f"cannot look up {shown}", self._deadline, self._progress)
        while True:
            try:
                with self._get(shown, f"cannot look up {shown}", {"Range": "bytes=0-0"}) as response:
                    found = _version(shown, response)
                    self._has_ranges[shown] = response.status_code == HTTPStatus.PARTIAL_CONTENT
            except TransientError as error:
                backoff.pause(error)
            else:
                if version not in ("", found.version):
                    raise NotFoundError(
                        "version-missing", f"{shown} has the version {found.version} now, not {version}"
                    )
                return found

    def resolve_sibling(self, uri: str, location: str) -> str:
        """Return the URL of a file in the same directory, without the query."""
        parts = urlsplit(uri)
        path = posixpath.join(posixpath.dirname(parts.path), quote(location))
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Fetch the file in ranges, or with one request if the server does not support ranges."""
        has_ranges = self._has_ranges[found.uri]
        workers = self._workers or workers_for(found.size)
        notes = Journal(journal, found, target)
        download = RangeDownload(
            partial(self._read, found), notes, workers if has_ranges else 1, self._deadline, self._progress
        )
        return download.run() if has_ranges else download.run(pieces_per_request=notes.count)

    @contextmanager
    def _read(self, found: ObjectVersion, start: int, end: int) -> Iterator[Callable[[int], bytes]]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        with self._get(found.uri, f"cannot read {found.uri}", headers, resolved_uri=found.uri) as response:
            if _version(found.uri, response).version != found.version:
                raise ReplacedError(
                    "object-replaced", f"{found.uri} was overwritten while it was loaded: load it again"
                )
            with range_reader(response, start, end, found.size) as read:
                yield read

    @contextmanager
    def _get(
        self, uri: str, action: str, headers: dict[str, str], resolved_uri: str = ""
    ) -> Iterator[requests.Response]:
        secrets = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        refuse = partial(_raise_for_status, action=action, resolved_uri=resolved_uri)
        with self._client.get(self._urls[uri], headers, secrets, refuse) as response:
            yield response


def _version(uri: str, response: requests.Response) -> ObjectVersion:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise IntegrityError(
            "object-compressed",
            f"{uri} is sent with Content-Encoding {response.headers['Content-Encoding']}, so its bytes are not "
            "those of the model: serve it uncompressed",
        )
    has_ranges = response.status_code == HTTPStatus.PARTIAL_CONTENT
    text = response.headers.get("Content-Range", "").rpartition("/")[2] if has_ranges else ""
    size = text or response.headers.get("Content-Length", "")
    if not size.isdecimal():
        raise LoadError(
            "answer-unexpected", f"{uri} has no length: expected a file from a server that reports its size"
        )
    etag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
    return ObjectVersion(uri, int(size), etag or response.headers.get("Last-Modified", "unknown"))


def _without_query(uri: str) -> str:
    return uri.partition("#")[0].partition("?")[0]


def _raise_for_status(
    response: requests.Response, errors: ErrorTranslator, *, action: str, resolved_uri: str
) -> NoReturn:
    reply = status_text(response)
    match response.status_code:
        case 404 | 410 | 412 if resolved_uri:
            raise ReplacedError(
                "object-replaced", f"{resolved_uri} was overwritten or deleted while it was loaded: load it again"
            )
        case 404 | 410:
            raise NotFoundError("object-missing", f"{action}: {reply}: check the URL")
        case 401 | 403:
            raise PermissionDeniedError(
                "access-denied",
                f"{action}: {reply}: check HTTPS_TOKEN, or whether the presigned URL has expired",
            )
        case 407:
            raise PermissionDeniedError("proxy-refused", f"{action}: {errors.proxy_refusal()}")
        case 416:
            raise IntegrityError("range-wrong", f"{action}: {reply}: the file has fewer bytes than it had at first")
        case code if is_transient(code):
            raise server_error(response, reply)
    raise LoadError("answer-unexpected", f"{action}: the response was {reply}, expected a file: check the URL")
