"""A model in an OCI registry, as raw layers named by the annotations of ModelPack or ORAS.

Every digest is a sha256, so the digest of a manifest pins all its files. A load resolves a tag once.
"""

import base64
import hashlib
import ipaddress
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple, NoReturn
from urllib.parse import urlencode, urlsplit

import msgspec
import requests
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
from loader.settings import FileReference, Settings
from loader.sources.base import ObjectVersion, Source
from loader.transfer.journal import Journal
from loader.transfer.ranges import RangeDownload, workers_for
from loader.transfer.redirects import RedirectingClient
from loader.transfer.retry import Backoff, TransientError
from loader.transfer.web import (
    MAX_RESPONSE_SIZE,
    ErrorTranslator,
    configure_session,
    is_transient,
    range_reader,
    read_bounded,
    server_error,
    status_text,
)
from loader.watchdog import Deadline

_REFERENCE = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:]+\](:[0-9]+)?)"
    r"/(?P<repository>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?(#(?P<file>.+))?"
)
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
_NAMES = ("org.cncf.model.filepath", "org.opencontainers.image.title")
_PACKED = re.compile(r"\.tar\b|\+gzip|\+zstd")
# Valid header characters: for others, requests would raise an error that quotes the token.
_TOKEN = re.compile(r"[\x21-\x7e]+")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_DOCKER_HUB = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


class _Layer(Struct, rename={"media_type": "mediaType"}):
    digest: Annotated[str, Meta(pattern=f"^{_DIGEST.pattern}$")]
    size: Annotated[int, Meta(ge=0)]
    media_type: str = ""
    annotations: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The file's path from the layer's annotations; empty if they have none."""
        return next((self.annotations[name] for name in _NAMES if name in self.annotations), "")


class _Content(Struct):
    layers: list[_Layer]


class _Login(Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(Struct):
    auths: dict[str, _Login] = {}


class _Token(Struct):
    token: str = ""
    access_token: str = ""


class _Address(NamedTuple):
    """The address of a manifest: its repository's URL, its URI in messages and receipts, and its tag or digest."""

    url: str
    shown: str
    reference: str


class _Manifest(NamedTuple):
    digest: str
    files: dict[str, _Layer]


class OciSource(Source):
    """Files with `oci://registry/repository:tag#file` URIs; a version is the digest of a manifest.

    A URI without a file means the only ONNX file in the manifest.
    """

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._deadline = deadline
        self._progress = progress
        self._workers = settings.download_workers
        self._stall_seconds = settings.stall_timeout_seconds
        self._session = requests.Session()
        configure_session(self._session, self._workers or workers_for(1 << 62))
        self._client = RedirectingClient(self._session, self._stall_seconds)
        self._manifests: dict[str, _Manifest] = {}
        self._authorizations: dict[str, str] = {}
        self._kind = "none"
        # The model's version also applies to the other files of its manifest.
        model = settings.model
        self._pinned = model if model.uri.startswith("oci://") else FileReference("", "")

    @property
    def credentials(self) -> str:
        """The kind of authentication: none, basic, or token."""
        return self._kind

    def resolve(self, uri: str, version: str) -> ObjectVersion:
        """Return a file of the manifest."""
        address = self._address(uri, version)
        manifest = self._manifest(address)
        name = self._name(uri, address, manifest)
        if name not in manifest.files:
            known = ", ".join(sorted(manifest.files)[:10])
            raise NotFoundError("object-missing", f"{address.shown} has no file {name!r}, only: {known}")
        layer = manifest.files[name]
        if _PACKED.search(layer.media_type):
            raise IntegrityError(
                "object-compressed",
                f"{address.shown}#{name} is an archive or compressed ({layer.media_type}): push it as a raw layer",
            )
        checksums = {"sha256": layer.digest.removeprefix("sha256:")}
        return ObjectVersion(f"{address.shown}#{name}", layer.size, manifest.digest, checksums)

    def resolve_sibling(self, uri: str, location: str) -> str:
        """Return the URI of a file in the same directory of the manifest."""
        address = self._address(uri, "")
        name = self._name(uri, address, self._manifest(address))
        return f"{address.shown}#{posixpath.join(posixpath.dirname(name), location)}"

    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Fetch the layer in ranges, in parallel if it is large."""
        workers = self._workers or workers_for(found.size)
        notes = Journal(journal, found, target)
        return RangeDownload(partial(self._read, found), notes, workers, self._deadline, self._progress).run()

    def _address(self, uri: str, version: str) -> _Address:
        is_same_manifest = uri.partition("#")[0] == self._pinned.uri.partition("#")[0]
        return _address(uri, version or (self._pinned.version if is_same_manifest else ""))

    def _name(self, uri: str, address: _Address, manifest: _Manifest) -> str:
        if name := uri.partition("#")[2]:
            return name
        models = [name for name in manifest.files if name.endswith(".onnx")]
        if len(models) != 1:
            raise NotFoundError(
                "object-missing",
                f"{address.shown} has {len(models)} ONNX files: name one as {address.shown}#model.onnx",
            )
        return models[0]

    def _manifest(self, address: _Address) -> _Manifest:
        if address.reference not in self._manifests:
            action = f"cannot look up {address.shown}"
            backoff = Backoff(action, self._deadline, self._progress)
            while True:
                try:
                    headers = {"Accept": ", ".join(_MANIFESTS)}
                    with self._get(f"{address.url}/manifests/{address.reference}", action, headers) as response:
                        self._manifests[address.reference] = _read_manifest(address, response)
                except TransientError as error:
                    backoff.pause(error)
                else:
                    break
        return self._manifests[address.reference]

    @contextmanager
    def _read(self, found: ObjectVersion, start: int, end: int) -> Iterator[Callable[[int], bytes]]:
        url = f"{_address(found.uri, '').url}/blobs/sha256:{found.checksums['sha256']}"
        headers = {"Range": f"bytes={start}-{end - 1}"}
        with (
            self._get(url, f"cannot read {found.uri}", headers, resolved_uri=found.uri) as response,
            range_reader(response, start, end, found.size) as read,
        ):
            yield read

    @contextmanager
    def _get(
        self, url: str, action: str, headers: dict[str, str], resolved_uri: str = ""
    ) -> Iterator[requests.Response]:
        """Send a request to the registry, authenticate if it requires that, and follow its redirects."""
        for is_last in (False, True):
            known = self._authorizations.get(_scope(url))
            secrets = {"Authorization": known} if known else {}
            refuse = partial(_raise_for_status, action=action, resolved_uri=resolved_uri, is_last=is_last)
            try:
                with self._client.get(url, headers, secrets, refuse) as response:
                    yield response
                    return
            except _ChallengeError as challenge:
                self._authorizations[_scope(url)] = self._authorize(url, challenge.header, action)

    def _authorize(self, url: str, challenge: str, action: str) -> str:
        """Return the Authorization header for a challenge."""
        registry = urlsplit(url)
        login = _login(registry.netloc)
        kind = challenge.partition(" ")[0].lower()
        if kind == "basic" and login:
            self._kind = "basic"
            return f"Basic {base64.b64encode(login.encode()).decode()}"
        fields = dict(_CHALLENGE.findall(challenge))
        realm = urlsplit(fields.get("realm", ""))
        is_safe = realm.scheme == "https" or (realm.scheme == registry.scheme and _is_loopback(realm.hostname or ""))
        if kind != "bearer" or not is_safe or "@" in realm.netloc:
            raise PermissionDeniedError(
                "credentials-missing",
                f"{action}: {registry.netloc} requires credentials, but Docker's config.json has none for it",
            )
        query = {name: fields[name] for name in ("service", "scope") if name in fields}
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
        errors = ErrorTranslator(f"{realm.scheme}://{realm.netloc}", self._stall_seconds)
        separator = "&" if realm.query else "?"
        with errors.translating():
            response = self._session.get(
                f"{realm.geturl()}{separator}{urlencode(query)}",
                headers=headers,
                stream=True,
                timeout=self._stall_seconds,
                allow_redirects=False,
            )
            content = read_bounded(response)
        if is_transient(response.status_code):
            raise TransientError("token-unavailable", f"cannot get a token: {status_text(response)}")
        try:
            given = msgspec.json.decode(content, type=_Token)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            given = _Token()
        token = given.token or given.access_token
        if response.status_code != HTTPStatus.OK or not _TOKEN.fullmatch(token):
            raise PermissionDeniedError(
                "credentials-refused",
                f"{action}: {realm.netloc} issued no token ({status_text(response)}): check Docker's config.json",
            )
        self._kind = "token" + (", from Docker's config.json" if login else "")
        return f"Bearer {token}"


class _ChallengeError(Exception):
    """The registry requires authorization.

    Args:
        header: its WWW-Authenticate header.
    """

    def __init__(self, header: str) -> None:
        super().__init__()
        self.header = header


def _address(uri: str, version: str) -> _Address:
    match = _REFERENCE.fullmatch(uri)
    if not match:
        raise UsageError(
            "settings-invalid",
            "an oci:// URI is malformed: expected oci://registry/repository:tag, or @sha256:… for :tag",
        )
    if version and not _DIGEST.fullmatch(version):
        raise UsageError(
            "settings-invalid",
            f"expected the version in a registry as sha256:<64 hexadecimal digits>, not {version!r}",
        )
    host = match["host"]
    scheme = "http" if _is_loopback(urlsplit(f"//{host}").hostname or "") else "https"
    reference = version or match["digest"] or match["tag"] or "latest"
    server = "registry-1.docker.io" if host == "docker.io" else host
    return _Address(f"{scheme}://{server}/v2/{match['repository']}", uri.partition("#")[0], reference)


def _is_loopback(host: str) -> bool:
    """Return whether the host is this machine, for which plain HTTP is used, as in Docker."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _scope(url: str) -> str:
    return re.split("/(manifests|blobs)/", url)[0]


def _read_manifest(address: _Address, response: requests.Response) -> _Manifest:
    content = read_bounded(response)
    if int(response.headers.get("Content-Length", len(content))) > MAX_RESPONSE_SIZE:
        raise UnreachableError(
            "answer-invalid", f"the manifest of {address.shown} has more than {MAX_RESPONSE_SIZE} bytes"
        )
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    expected = (
        address.reference if address.reference.startswith("sha256:") else response.headers.get("Docker-Content-Digest")
    )
    if expected not in (None, digest):
        raise TransientError(
            "checksum-mismatch", f"the manifest has the digest {digest}, expected {expected}", kind=IntegrityError
        )
    try:
        layers = msgspec.json.decode(content, type=_Content).layers
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreachableError(
            "answer-invalid",
            f"{address.shown} is not a manifest with layers ({error}): name one manifest, not an index of several",
        ) from error
    files = {layer.name: layer for layer in layers if layer.name}
    for name in files:
        if not name.isprintable() or "\\" in name or PurePosixPath(name).is_absolute() or ".." in name.split("/"):
            raise IntegrityError(
                "name-refused", f"{address.shown} has a file {name!r}, which points outside its directory"
            )
    return _Manifest(digest, files)


def _login(host: str) -> str:
    """Return the credentials for a registry from Docker's config.json as user:password; empty if it has none."""
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    known = [host, f"https://{host}", *(_DOCKER_HUB if host == _DOCKER_HUB[-1] else ())]
    try:
        logins = msgspec.json.decode(path.read_bytes(), type=_DockerConfig).auths
        login = next((logins[name] for name in known if name in logins), _Login())
        auth = base64.b64decode(login.auth, validate=True).decode()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError, RecursionError) as error:
        raise PermissionDeniedError(
            "credentials-unusable", f"cannot use the credentials in {path} ({type(error).__name__}): run docker login"
        ) from error
    return auth or (f"{login.username}:{login.password}" if login.username else "")


def _raise_for_status(
    response: requests.Response, errors: ErrorTranslator, *, action: str, resolved_uri: str, is_last: bool
) -> NoReturn:
    reply = status_text(response)
    match response.status_code:
        case 401 if not is_last and response.headers.get("WWW-Authenticate"):
            raise _ChallengeError(response.headers["WWW-Authenticate"])
        case 404 | 410 if resolved_uri:
            raise ReplacedError("object-replaced", f"{resolved_uri} was deleted while it was loaded: load it again")
        case 404 | 410:
            raise NotFoundError("object-missing", f"{action}: {reply}: check the repository and its tag or digest")
        case 401 | 403:
            raise PermissionDeniedError(
                "access-denied", f"{action}: {reply}: check the registry's credentials in Docker's config.json"
            )
        case 407:
            raise PermissionDeniedError("proxy-refused", f"{action}: {errors.proxy_refusal()}")
        case 416:
            raise IntegrityError("range-wrong", f"{action}: {reply}: the layer has fewer bytes than its manifest says")
        case code if is_transient(code):
            raise server_error(response, reply)
    raise LoadError(
        "answer-unexpected", f"{action}: the response was {reply}, expected a registry's response: check the URI"
    )
