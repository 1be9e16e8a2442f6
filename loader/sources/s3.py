"""A model in Amazon S3 or in compatible storage such as MinIO, R2 and Ceph.

botocore finds the credentials, the region and the endpoint, and signs and sends requests.
"""

import base64
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnectionError

from loader import __version__
from loader.checksums import Digest, encode_checksum
from loader.errors import IntegrityError, LoadError, NotFoundError, PermissionDeniedError, ReplacedError
from loader.progress import Progress
from loader.settings import Settings
from loader.sources.base import ObjectVersion, Source
from loader.sources.listing import Listing
from loader.transfer.journal import Journal
from loader.transfer.ranges import RangeDownload, workers_for
from loader.transfer.retry import Backoff, TransientError
from loader.transfer.web import ErrorTranslator, is_transient, retry_after
from loader.watchdog import Deadline

_ETAG = "etag:"
_CHECKSUMS = {
    "ChecksumSHA256": "sha256",
    "ChecksumSHA1": "sha1",
    "ChecksumCRC64NVME": "crc64nvme",
    "ChecksumCRC32C": "crc32c",
    "ChecksumCRC32": "crc32",
}
_MD5 = re.compile("[0-9a-f]{32}")
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)  # the latter for a delete marker
_TRANSIENT_CODES = ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable")


class S3Source(Source):
    """Objects with `s3://bucket/key` URIs; a version is a version id or, without one, `etag:` and the entity tag."""

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._settings = settings
        self._deadline = deadline
        self._progress = progress
        self._anonymous = settings.s3_anonymous
        self._workers = settings.download_workers
        self._stall_seconds = settings.stall_timeout_seconds
        self._kind = "none"
        self._errors = ErrorTranslator("the S3 endpoint", self._stall_seconds)
        self._client: Any = None

    @property
    def credentials(self) -> str:
        """The credential provider of botocore, such as AWS env or AWS assume-role-with-web-identity."""
        return self._kind

    def resolve(self, uri: str, version: str) -> ObjectVersion:
        """Return the object in the given version, or the latest one."""
        action = f"cannot look up {uri}#{version}" if version else f"cannot look up {uri}"
        backoff = Backoff(f"cannot look up {uri}", self._deadline, self._progress)
        while True:
            try:
                with self._translating_errors(action):
                    head = self._open().head_object(**_named(uri, version), ChecksumMode="ENABLED")
            except TransientError as error:
                backoff.pause(error)
            else:
                return _version(uri, head)

    def resolve_sibling(self, uri: str, location: str) -> str:
        """Return the URI of the object with the same key up to the last slash, followed by the location."""
        bucket, key = _split(uri)
        directory, slash, _ = key.rpartition("/")
        return f"s3://{bucket}/{directory}{slash}{location}"

    def list_files(self, uri: str) -> dict[str, ObjectVersion]:
        """Return the latest versions of the objects whose keys begin with the prefix."""
        action = f"cannot list {uri}"
        backoff = Backoff(action, self._deadline, self._progress)
        while True:
            try:
                with self._translating_errors(action):
                    names = self._list_names(uri)
            except TransientError as error:
                backoff.pause(error)
            else:
                # A listing has neither version ids nor checksums.
                return {name: self.resolve(f"{uri}{name}", "") for name in names}

    def _list_names(self, uri: str) -> list[str]:
        bucket, prefix = _split(uri)
        listing = Listing(uri, self._settings)
        pages = self._open().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = (
            (entry["Key"].removeprefix(prefix), entry["Size"]) for page in pages for entry in page.get("Contents", ())
        )
        return [name for name, size in objects if listing.includes(name, size)]

    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Fetch the object in ranges, in parallel if it is large."""
        workers = self._workers or workers_for(found.size)
        notes = Journal(journal, found, target)
        return RangeDownload(partial(self._read, found), notes, workers, self._deadline, self._progress).run()

    @contextmanager
    def _read(self, found: ObjectVersion, start: int, end: int) -> Iterator[Callable[[int], bytes]]:
        with self._translating_errors(f"cannot read {found.uri}", resolved_uri=found.uri):
            answer = self._open().get_object(**_named(found.uri, found.version), Range=f"bytes={start}-{end - 1}")
            body = answer["Body"]
            try:
                _check_range(answer, start, end, found.size)
                yield body.read
            finally:
                body.close()

    def _open(self) -> Any:  # noqa: ANN401 (botocore creates the classes of its clients at runtime)
        """Return the client, created at the first call that succeeds."""
        if self._client is None:
            session = botocore.session.get_session()
            if not self._anonymous:
                self._kind = f"AWS {_find_credentials(session)}"
            options: dict[str, Any] = {"signature_version": UNSIGNED} if self._anonymous else {}
            if _needs_path_style(session):
                options["s3"] = {"addressing_style": "path"}
            config = Config(
                connect_timeout=self._stall_seconds,
                read_timeout=self._stall_seconds,
                max_pool_connections=self._workers or workers_for(1 << 62),
                retries={"total_max_attempts": 1, "mode": "standard"},
                response_checksum_validation="when_required",
                user_agent_extra=f"model-loader/{__version__}",
                **options,
            )
            # As in the other sources; AWS_CA_BUNDLE takes precedence.
            verify = None if session.get_config_variable("ca_bundle") else os.environ.get("SSL_CERT_FILE")
            self._client = session.create_client(
                "s3", region_name=session.get_config_variable("region") or "us-east-1", config=config, verify=verify
            )
            self._errors = ErrorTranslator(self._client.meta.endpoint_url, self._stall_seconds)
        return self._client

    @contextmanager
    def _translating_errors(self, action: str, resolved_uri: str = "") -> Iterator[None]:
        """Translate the errors of botocore in the block.

        Args:
            action: the start of the message, such as "cannot read ...".
            resolved_uri: the URI of the object if it was already resolved; a missing object was then deleted.
        """
        try:
            yield
        except ClientError as error:
            self._raise_for_status(error, action, resolved_uri)
        except (HTTPClientError, NoConnectionError) as error:
            raise self._errors.translate(error.kwargs.get("error") or error) from error
        except IncompleteReadError as error:
            raise TransientError("connection-failed", "the connection was cut") from error
        except BotoCoreError as error:
            raise PermissionDeniedError(
                "credentials-unusable",
                f"{action}: botocore gave up ({type(error).__name__}): check the AWS settings and credentials",
            ) from error

    def _raise_for_status(self, error: ClientError, action: str, resolved_uri: str) -> NoReturn:
        """Raise the error for a response; it quotes only the code of the body, which may quote the request."""
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        reply = f"{status} {code}" if code != str(status) else str(status)
        if resolved_uri and (status == HTTPStatus.PRECONDITION_FAILED or status in _GONE):
            raise ReplacedError(
                "object-replaced", f"{resolved_uri} was overwritten or deleted while it was loaded: load it again"
            )
        if is_transient(status) or code in _TRANSIENT_CODES:
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            raise TransientError(
                "server-failed", f"the response was {reply}", wait=retry_after(headers.get("retry-after"))
            )
        if status in _GONE:
            raise NotFoundError(
                "object-missing", f"{action}: {reply}: check the bucket, the object's key and its version"
            )
        if status == HTTPStatus.PRECONDITION_FAILED:
            raise NotFoundError("version-missing", f"{action}: {reply}: the object has a different entity tag now")
        if status == HTTPStatus.UNAUTHORIZED:
            raise PermissionDeniedError(
                "credentials-refused", f"{action}: {reply}: check the access key and its secret"
            )
        if status == HTTPStatus.FORBIDDEN:
            raise PermissionDeniedError(
                "access-denied",
                f"{action}: {reply}: check the credentials, grant s3:GetObject (and s3:GetObjectVersion for a pinned "
                "version, s3:ListBucket for a prefix) to the loader's identity, and check that the object exists",
            )
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise IntegrityError("range-wrong", f"{action}: {reply}: the object has fewer bytes than its metadata says")
        raise LoadError(
            "answer-unexpected",
            f"{action}: the response was {reply}, expected the object: check the region, the endpoint and the "
            "credentials",
        )


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _named(uri: str, version: str) -> dict[str, str]:
    """Return the request parameters for an object in a version."""
    bucket, key = _split(uri)
    named = {"Bucket": bucket, "Key": key}
    if version.startswith(_ETAG):
        return {**named, "IfMatch": f'"{version.removeprefix(_ETAG)}"'}
    return {**named, "VersionId": version} if version else named


def _version(uri: str, head: Mapping[str, Any]) -> ObjectVersion:
    if head.get("ContentEncoding", "") not in ("", "identity", "aws-chunked"):
        raise IntegrityError(
            "object-compressed",
            f"{uri} is stored with Content-Encoding {head['ContentEncoding']}, so its checksum is not that of "
            "the model: upload it uncompressed",
        )
    etag = head["ETag"].strip('"')
    version_id = head.get("VersionId", "null")
    version = f"{_ETAG}{etag}" if version_id == "null" else version_id
    return ObjectVersion(uri, int(head["ContentLength"]), version, _checksums(head, etag))


def _checksums(head: Mapping[str, Any], etag: str) -> dict[str, str]:
    """Return the checksums of the whole object, without those composed of the checksums of parts."""
    checksums = {}
    for field, name in _CHECKSUMS.items():
        value = head.get(field, "")
        if value and "-" not in value and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
            checksums[name] = encode_checksum(name, base64.b64decode(value))
    # The entity tag of a single-part upload is its MD5, unless it is encrypted with SSE-KMS or SSE-C.
    encrypted = head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head
    if not checksums and not encrypted and _MD5.fullmatch(etag):
        checksums["md5"] = etag
    return checksums


def _check_range(answer: Mapping[str, Any], start: int, end: int, size: int) -> None:
    expected = f"bytes {start}-{end - 1}/{size}"
    found = answer.get("ContentRange") or f"bytes 0-{answer['ContentLength'] - 1}/{answer['ContentLength']}"
    if found != expected:
        raise TransientError("range-wrong", f"the response has {found}, expected {expected}", kind=IntegrityError)
    if answer["ContentLength"] != end - start:
        raise TransientError(
            "range-wrong",
            f"the response has {answer['ContentLength']} bytes, expected {end - start}",
            kind=IntegrityError,
        )


def _needs_path_style(session: Any) -> bool:  # noqa: ANN401
    """Return whether the endpoint is not Amazon's and no addressing style is configured."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    configured = session.get_scoped_config()
    style = (configured.get("s3") or {}).get("addressing_style") if isinstance(configured.get("s3"), dict) else None
    return bool(endpoint or configured.get("endpoint_url")) and style is None


def _find_credentials(session: Any) -> str:  # noqa: ANN401
    """Fetch credentials through botocore's provider chain, and return the name of the provider."""
    try:
        found = session.get_credentials()
        if found:
            found.get_frozen_credentials()
            return str(found.method)
    except (HTTPClientError, NoConnectionError) as error:
        raise TransientError("token-unavailable", f"cannot get a token: {type(error).__name__}") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise PermissionDeniedError(
            "credentials-refused", f"AWS refused the credentials ({code}): check the role and its trust policy"
        ) from error
    except (BotoCoreError, OSError, ValueError, KeyError) as error:
        raise PermissionDeniedError(
            "credentials-unusable",
            f"cannot use the AWS credentials ({type(error).__name__}): check the AWS_ variables and the "
            "files they name",
        ) from error
    raise PermissionDeniedError(
        "credentials-missing",
        "found no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run under a service account with a "
        "role, or set S3_ANONYMOUS=true if the bucket is public",
    )
