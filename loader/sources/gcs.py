"""A model in a Google Cloud Storage bucket.

The client of google-cloud-storage resolves objects. Downloads use range requests over the same authorised session,
because the library's downloads read 8 KiB at a time and have no overall time limit.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import quote

import google.auth
import msgspec
import requests
from google.auth import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import storage
from msgspec import Meta, Struct

from loader.checksums import Digest
from loader.errors import (
    IntegrityError,
    LoadError,
    NotFoundError,
    PermissionDeniedError,
    ReplacedError,
    UnreachableError,
    UsageError,
)
from loader.progress import Progress
from loader.settings import Settings
from loader.sources.base import ObjectVersion, Source
from loader.sources.listing import Listing
from loader.transfer.journal import Journal
from loader.transfer.ranges import RangeDownload, workers_for
from loader.transfer.retry import Backoff, TransientError
from loader.transfer.web import (
    MAX_QUOTE_LENGTH,
    ErrorTranslator,
    body_reader,
    check_range,
    configure_session,
    is_transient,
    read_bounded,
    server_error,
    status_text,
)
from loader.watchdog import Deadline

_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED)
_PAGE_SIZE = 500  # less than the 1 MiB that are read of an answer
_FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"
_Found = TypeVar("_Found")
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


class _Metadata(Struct):
    """The fields of an object resource that a load requires."""

    size: Annotated[int, Meta(ge=0)]
    generation: int
    crc32c: str


class _Page(Struct):
    """The fields of a page of a listing that a load requires."""

    items: list[_Metadata] = []


class _Refusal(Struct):
    error: "_RefusalError"


class _RefusalError(Struct):
    message: str


class GcsSource(Source):
    """Objects, by `gs://bucket/name` URIs; a version is a generation."""

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._settings = settings
        self._deadline = deadline
        self._progress = progress
        self._workers = settings.download_workers
        self._stall_seconds = settings.stall_timeout_seconds
        emulator = settings.storage_emulator_host
        if emulator and "://" not in emulator:
            emulator = f"http://{emulator}"
        self._endpoint = (emulator or settings.gcs_endpoint).rstrip("/")
        self._anonymous = settings.gcs_anonymous or bool(emulator)
        self._errors = ErrorTranslator(self._endpoint, self._stall_seconds)
        self._uri = self._action = ""
        self._answer: type[_Metadata | _Page] = _Metadata
        self._opened: tuple[AuthorizedSession, storage.Client] | None = None

    @property
    def credentials(self) -> str:
        """The google-auth module of the credentials, such as google.oauth2.service_account, and the account."""
        if self._anonymous or not self._opened:
            return "none"
        found = self._opened[0].credentials
        email = getattr(found, "service_account_email", None)
        return type(found).__module__ + (f" of {email}" if email else "")

    def resolve(self, uri: str, version: str) -> ObjectVersion:
        """Return the object in the given generation, or the latest one."""
        self._uri = f"{uri}#{version}" if version else uri
        self._action = f"cannot look up {self._uri}"
        if not version.isdecimal() and version:
            raise UsageError(
                "settings-invalid", f"{uri} uses generations as versions: expected a number, not {version!r}"
            )
        return self._look_up(uri, _Metadata, lambda client: _version(uri, self._read_metadata(client, uri, version)))

    def list_files(self, uri: str) -> dict[str, ObjectVersion]:
        """Return the latest versions of the objects whose names begin with the prefix."""
        self._uri = uri
        self._action = f"cannot list {uri}"
        return self._look_up(uri, _Page, lambda client: self._list(client, uri))

    def resolve_sibling(self, uri: str, location: str) -> str:
        """Return the URI of the object with the same name up to the last slash, followed by the location."""
        bucket, name = _split(uri)
        directory, slash, _ = name.rpartition("/")
        return f"gs://{bucket}/{directory}{slash}{location}"

    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Fetch the object in ranges, in parallel if it is large."""
        self._uri = found.uri
        self._action = f"cannot read {found.uri}"
        workers = self._workers or workers_for(found.size)
        notes = Journal(journal, found, target)
        return RangeDownload(partial(self._read, found), notes, workers, self._deadline, self._progress).run()

    def _look_up(self, uri: str, answer: type[_Metadata | _Page], ask: Callable[[storage.Client], _Found]) -> _Found:
        """Return what a function finds with the client; retry it after transient errors.

        Args:
            uri: the object or the prefix.
            answer: the form of the answers.
            ask: sends the requests.
        """
        backoff = Backoff(f"cannot look up {uri}", self._deadline, self._progress)
        while True:
            try:
                with self._errors.translating(), _translating_auth_errors():
                    _, client = self._open()
                    self._answer = answer
                    return ask(client)
            except TransientError as error:
                backoff.pause(error)

    def _read_metadata(self, client: storage.Client, uri: str, version: str) -> storage.Blob:
        bucket, name = _split(uri)
        # The library does not quote the bucket's name in its URLs.
        blob = client.bucket(quote(bucket, safe="")).blob(name, generation=int(version) if version else None)
        blob.reload(timeout=self._stall_seconds, retry=None)
        return blob

    def _list(self, client: storage.Client, uri: str) -> dict[str, ObjectVersion]:
        bucket, prefix = _split(uri)
        listing = Listing(uri, self._settings)
        blobs = client.list_blobs(
            client.bucket(quote(bucket, safe="")),
            prefix=prefix,
            page_size=_PAGE_SIZE,
            fields=_FIELDS,
            timeout=self._stall_seconds,
            retry=None,
        )
        names = ((blob.name.removeprefix(prefix), blob) for blob in blobs)
        return {name: _version(f"{uri}{name}", blob) for name, blob in names if listing.includes(name, int(blob.size))}

    @contextmanager
    def _read(self, found: ObjectVersion, start: int, end: int) -> Iterator[Callable[[int], bytes]]:
        bucket, name = _split(found.uri)
        # The object's mediaLink is not used: it can point to another host.
        url = f"{self._endpoint}/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with self._errors.translating(), _translating_auth_errors():
            session, _ = self._open()
            response = session.get(
                f"{url}?alt=media&generation={found.version}",
                headers=headers,
                stream=True,
                timeout=self._stall_seconds,
                allow_redirects=False,
            )
            with body_reader(response) as read:
                generation = response.headers.get("X-Goog-Generation", found.version)
                if generation != found.version:
                    raise ReplacedError(
                        "object-replaced",
                        f"{found.uri} was overwritten with generation {generation} while it was loaded",
                    )
                check_range(response, start, end, found.size)
                yield read

    def _open(self) -> tuple[AuthorizedSession, storage.Client]:
        """Return the session and the client, created at the first call that succeeds."""
        if self._opened is None:
            # GOOGLE_API_USE_MTLS_ENDPOINT=always would send lookups to a host other than GCS_ENDPOINT.
            os.environ["GOOGLE_API_USE_MTLS_ENDPOINT"] = "never"
            # A thread of the library would request the bucket's metadata for traces, which are off.
            os.environ["DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"] = "true"
            tokens = requests.Session()
            configure_session(tokens, 1)
            tokens.hooks["response"].append(_bound_response)
            request = Request(tokens)
            found: Any = AnonymousCredentials() if self._anonymous else _find_credentials(request, self._endpoint)  # type: ignore[no-untyped-call]
            session = AuthorizedSession(found, auth_request=request)  # type: ignore[no-untyped-call]
            configure_session(session, self._workers or workers_for(1 << 62))
            session.hooks["response"].append(self._check_answer)
            options = {"api_endpoint": self._endpoint, "universe_domain": found.universe_domain}
            self._opened = session, storage.Client(None, found, session, client_options=options)
        return self._opened

    def _check_answer(self, response: requests.Response, **options: object) -> None:
        """Raise the error for a response, before requests, google-auth and the library process the response."""
        if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            if not options.get("stream"):
                self._check_metadata(response)
        elif options.get("stream") and response.status_code in _GONE:
            response.close()
            raise ReplacedError(
                "object-replaced",
                f"{self._uri} was overwritten or deleted while it was loaded: load it again",
            )
        else:
            self._raise_for_status(response)

    def _check_metadata(self, response: requests.Response) -> None:
        try:
            msgspec.json.decode(read_bounded(response), type=self._answer, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if "truncated" in str(error):
                raise TransientError("connection-failed", "the response was cut short") from error
            raise UnreachableError(
                "answer-invalid",
                f"{self._action}: the response of {self._endpoint} is not object metadata ({error}): "
                "check GCS_ENDPOINT, STORAGE_EMULATOR_HOST and proxies",
            ) from error

    def _raise_for_status(self, response: requests.Response) -> NoReturn:
        action = self._action
        try:
            said = msgspec.json.decode(read_bounded(response), type=_Refusal).error.message
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = ""
        status = status_text(response)
        reply = (
            f"{status} ({said.partition(chr(10))[0][:MAX_QUOTE_LENGTH]})"
            if said and said != response.reason
            else status
        )
        match response.status_code:
            case 401:
                raise PermissionDeniedError(
                    "credentials-refused",
                    f"{action}: {reply}: the credentials are missing, expired or from another project; check them",
                )
            case 403:
                raise PermissionDeniedError(
                    "access-denied",
                    f"{action}: {reply}: grant storage.objects.get, and storage.objects.list for a prefix "
                    "(roles/storage.objectViewer has both), to the loader's identity, and check that the object exists",
                )
            case 404:
                raise NotFoundError(
                    "object-missing",
                    f"{action}: {reply}: check the bucket, the object's name and its generation",
                )
            case 407:
                raise PermissionDeniedError("proxy-refused", f"{action}: {self._errors.proxy_refusal()}")
            case 416:
                raise IntegrityError(
                    "range-wrong", f"{action}: {reply}: the object has fewer bytes than its metadata says"
                )
            case code if is_transient(code):
                raise server_error(response, reply)
        raise LoadError(
            "answer-unexpected", f"{action}: the response was {reply}, expected the object: check the settings"
        )


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def _version(uri: str, blob: storage.Blob) -> ObjectVersion:
    if blob.content_encoding not in (None, "", "identity"):
        raise IntegrityError(
            "object-compressed",
            f"{uri} is stored with Content-Encoding {blob.content_encoding}, so its checksum is not that of "
            "the model: upload it uncompressed",
        )
    return ObjectVersion(uri, int(blob.size), str(blob.generation), {"crc32c": blob.crc32c})


def _bound_response(response: requests.Response, **_: object) -> None:
    read_bounded(response)


def _find_credentials(request: Request, endpoint: str) -> Any:  # noqa: ANN401 (google-auth has no types)
    """Return the application default credentials with a token, so that the threads share one token."""
    logging.getLogger("google.auth").setLevel(logging.ERROR)  # it warns about a missing project, which is not needed
    try:
        found, _ = google.auth.default(scopes=[_SCOPE], request=request)
        found.before_request(request, "GET", endpoint, {})  # type: ignore[no-untyped-call]
        found.universe_domain  # noqa: B018 (may send a request to the metadata server)
    except (OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, exceptions.GoogleAuthError):
            raise
        # google-auth raises many built-in errors for a key file that is not JSON or has other fields.
        raise PermissionDeniedError(
            "credentials-unusable",
            f"cannot use the credentials in {_key_file(error)} ({_first_line(error)}): set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file that the loader can read",
        ) from error
    return found


def _key_file(error: Exception) -> str:
    """Return the name of the credentials file for an error message."""
    named = error.filename if isinstance(error, OSError) else None
    return str(named or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or "gcloud's default file")


@contextmanager
def _translating_auth_errors() -> Iterator[None]:
    """Translate the errors of google-auth in the block."""
    try:
        yield
    except exceptions.DefaultCredentialsError as error:
        raise PermissionDeniedError(
            "credentials-missing",
            f"found no Google credentials ({_first_line(error)}): set GOOGLE_APPLICATION_CREDENTIALS to a key "
            "file, run under Workload Identity, or set GCS_ANONYMOUS=true if the bucket is public",
        ) from error
    except exceptions.GoogleAuthError as error:
        if error.retryable or isinstance(error, exceptions.TransportError):
            raise TransientError("token-unavailable", f"cannot get a token: {_first_line(error)}") from error
        raise PermissionDeniedError(
            "credentials-refused",
            f"Google refused the credentials ({_first_line(error)}): check the key or the service account",
        ) from error


def _first_line(error: Exception) -> str:
    """Return the first line of the error's message, without the token server's response in its other arguments."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.partition("\n")[0][:MAX_QUOTE_LENGTH]
