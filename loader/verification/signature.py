"""Verification of a model's signature in the format of OpenSSF model signing.

A Sigstore bundle (v0.3) holds a DSSE envelope, which holds an in-toto statement, whose predicate lists each file of the
signed directory with its sha256. The format is parsed strictly, so that all readers interpret a signature in the same
way: each field occurs once, has the right type and the canonical encoding, and unknown fields are allowed only in the
signed part.

A signature proves which files belong together, not which version is required: the signature of an older model is valid.
"""

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from msgspec import UNSET, Struct, UnsetType

from loader.errors import IntegrityError, NotFoundError, translate_os_errors
from loader.settings import Settings
from loader.sources.base import ObjectVersion, Source
from loader.verification.trust import Trust, TrustedKey, UntrustedError
from volume.receipt import SignatureRecord

MAX_SIGNATURE_SIZE = 4 << 20

_MEMORY = Path("/dev/shm")  # noqa: S108 (a container's root is read-only; TemporaryDirectory chooses the name)
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_UNNAMED = "."  # the name of the file in a signature of a single file
_SHA256 = re.compile("[0-9a-f]{64}")
_MAX_CHAIN = 10


_Kind = TypeVar("_Kind")


class _Strict(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class _KeyHint(_Strict):
    hint: str


class _Certificate(_Strict):
    raw_bytes: str


class _Chain(_Strict):
    certificates: list[_Certificate]


class _Material(_Strict):
    public_key: _KeyHint | UnsetType = UNSET
    x509_certificate_chain: _Chain | UnsetType = UNSET
    tlog_entries: list[Any] = []


class _Signature(_Strict):
    sig: str
    keyid: str = ""


class _Envelope(_Strict):
    payload: str
    payload_type: str
    signatures: list[_Signature]


class _Bundle(_Strict):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


class _Digest(_Strict):
    sha256: str


class _Subject(_Strict):
    name: str
    digest: _Digest


class _Serialization(_Strict, rename=None):
    method: str
    hash_type: str
    allow_symlinks: bool
    ignore_paths: list[str] = []


class _Resource(_Strict):
    name: str
    algorithm: str
    digest: str


class _Predicate(Struct):
    """The predicate. The format requires that readers ignore its other fields."""

    serialization: _Serialization
    resources: list[_Resource]


class _Statement(_Strict):
    type: str = msgspec.field(name="_type")
    subject: list[_Subject]
    predicate_type: str
    predicate: _Predicate


class SignedModel(Struct, frozen=True, kw_only=True):
    """The files that a trusted signature lists.

    Attributes:
        record: the signature's entry in the receipt.
        files: the sha256 of each file by its path relative to the signed directory.
    """

    record: SignatureRecord
    files: Mapping[str, str]

    def check_listed(self, name: str, uri: str) -> str:
        """Return the signed sha256 of a file.

        Args:
            name: the file's path relative to the model's directory at the source.
            uri: the file's URI.

        Raises:
            IntegrityError: the signature does not list the file.
        """
        if name not in self.files:
            listed = "only one file without a name" if list(self.files) == [_UNNAMED] else _abbreviated(self.files)
            raise IntegrityError(
                "file-not-signed",
                f"{uri} is not signed: {self.record.uri} lists {listed}, but not {name!r}: sign the model's directory",
            )
        return self.files[name]

    def check(self, name: str, uri: str, sha256: str) -> None:
        """Check that a file is the signed one.

        Args:
            name: the file's path relative to the model's directory at the source.
            uri: the file's URI.
            sha256: the digest of its content.

        Raises:
            IntegrityError: the digest differs, or the signature does not list the file.
        """
        signed = self.check_listed(name, uri)
        if sha256 != signed:
            raise IntegrityError(
                "signed-file-mismatch",
                f"{uri} has the sha256 {sha256}, but {self.record.uri} lists {signed} for {name!r}: "
                "upload the signed file, or sign the new one",
            )


def verify_signature(content: bytes, uri: str, trust: Trust) -> SignedModel:
    """Verify a signature, and return the files that it lists.

    Args:
        content: the content of the signature file.
        uri: its URI.
        trust: the trusted keys and roots.

    Raises:
        IntegrityError: the signature is malformed, from an untrusted key, or invalid.
    """
    try:
        bundle = _parse_bundle(content)
        payload = _decode(bundle.dsse_envelope.payload, "payload")
        signature = _decode(bundle.dsse_envelope.signatures[0].sig, "sig")
        key = _key(bundle.verification_material, trust)
        message = b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
        if not key.verifies(signature, message):
            raise IntegrityError(
                "signature-invalid",
                f"{uri} is not a valid signature of its contents by the key {key.hint}: it was changed; sign again",
            )
        files = _parse_statement(payload)
    except UntrustedError as error:
        raise IntegrityError("signature-untrusted", f"{uri} is not from a trusted signer: {error}") from error
    except ValueError as error:
        raise IntegrityError("signature-malformed", f"{uri} is not a model's signature: {error}") from error
    record = SignatureRecord(uri=uri, sha256=hashlib.sha256(content).hexdigest(), key=key.hint)
    return SignedModel(record=record, files=files)


def find_signature(settings: Settings, source: Source, uri: str) -> SignedModel:
    """Fetch and verify the model's signature, and return the files that it lists.

    Args:
        settings: name the files with the trusted keys and roots.
        source: the source of the signature.
        uri: the URI of the signature.

    Raises:
        IntegrityError: there is no valid signature from a trusted key, or the files with the keys or roots are invalid.
        LoadError: the signature cannot be read.
    """
    trust = Trust.read(settings.model_signature_key, settings.model_signature_certificates)
    try:
        found = source.resolve(uri, "")
    except NotFoundError as error:
        raise IntegrityError(
            "signature-missing", f"the model must be signed, but its signature cannot be found: {error}"
        ) from error
    if found.size > MAX_SIGNATURE_SIZE:
        raise IntegrityError(
            "signature-malformed",
            f"{found.uri} is not a model's signature: it has {found.size} bytes, expected at most {MAX_SIGNATURE_SIZE}",
        )
    return verify_signature(_read(source, found), found.uri, trust)


def _read(source: Source, found: ObjectVersion) -> bytes:
    """Return the content of a signature, without writing to the volume."""
    if path := source.path(found):
        with translate_os_errors(f"cannot read the local file {path}", missing=NotFoundError), path.open("rb") as file:
            return file.read(found.size)
    with (
        translate_os_errors("cannot write to the directory of temporary files"),
        TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as directory,
    ):
        target = Path(directory, "file")
        source.fetch(found, target, Path(directory, "journal"))
        return target.read_bytes()


def relative_name(source: Source, model: str, uri: str) -> str:
    """Return the path of a file relative to the model's directory at the source; empty if it is outside.

    Args:
        source: the source of the model.
        model: the URI of the model.
        uri: the URI of the file.
    """
    directory = source.resolve_sibling(model, "x")[:-1]
    rest = uri.removeprefix(directory) if uri.startswith(directory) else ""
    return next((name for name in (rest, unquote(rest)) if name and source.resolve_sibling(model, name) == uri), "")


def _key(material: _Material, trust: Trust) -> TrustedKey:
    if isinstance(material.public_key, _KeyHint):
        return trust.key(material.public_key.hint)
    assert isinstance(material.x509_certificate_chain, _Chain)  # noqa: S101 (_parse_bundle checks that one is set)
    chain = material.x509_certificate_chain.certificates
    return trust.certified_key([_decode(certificate.raw_bytes, "rawBytes") for certificate in chain])


def _parse_bundle(content: bytes) -> _Bundle:
    if len(content) > MAX_SIGNATURE_SIZE:
        raise _malformed(f"it has {len(content)} bytes, expected at most {MAX_SIGNATURE_SIZE}")
    document = _load(content)
    material = document.get("verificationMaterial") if isinstance(document, dict) else None
    if isinstance(material, dict) and (material.get("tlogEntries") or "certificate" in material):
        raise _malformed("it is keyless, from Sigstore: expected a signature by your own key or certificate")
    bundle = _convert(document, _Bundle)
    _expect("mediaType", bundle.media_type, _MEDIA_TYPE)
    _expect("payloadType", bundle.dsse_envelope.payload_type, _PAYLOAD_TYPE)
    _expect("the number of signatures", len(bundle.dsse_envelope.signatures), 1)
    _expect("keyid", bundle.dsse_envelope.signatures[0].keyid, "")
    key, chain = bundle.verification_material.public_key, bundle.verification_material.x509_certificate_chain
    if isinstance(key, _KeyHint) is isinstance(chain, _Chain):
        raise _malformed("its verificationMaterial must have exactly one of publicKey and x509CertificateChain")
    if isinstance(key, _KeyHint) and not _SHA256.fullmatch(key.hint):
        raise _malformed(f"its hint is {_quoted(key.hint)}, expected a sha256")
    if isinstance(chain, _Chain) and not 1 <= len(chain.certificates) <= _MAX_CHAIN:
        raise _malformed(f"it has {len(chain.certificates)} certificates, expected 1 to {_MAX_CHAIN}")
    return bundle


def _parse_statement(payload: bytes) -> dict[str, str]:
    """Return the sha256 of each signed file by its path."""
    statement = _convert(_load(payload), _Statement)
    _expect("_type", statement.type, _STATEMENT_TYPE)
    _expect("predicateType", statement.predicate_type, _PREDICATE_TYPE)
    _expect("the number of subjects", len(statement.subject), 1)
    _expect("method", statement.predicate.serialization.method, "files")
    _expect("hash_type", statement.predicate.serialization.hash_type, "sha256")
    files: dict[str, str] = {}
    combined = hashlib.sha256()
    for resource in statement.predicate.resources:
        _expect("algorithm", resource.algorithm, "sha256")
        if not _SHA256.fullmatch(resource.digest):
            raise _malformed(f"it lists the digest {_quoted(resource.digest)}, expected a sha256")
        if not _is_normal(resource.name):
            raise _malformed(f"it lists {_quoted(resource.name)}, expected a relative path inside the signed directory")
        if resource.name in files:
            raise _malformed(f"it lists {_quoted(resource.name)} twice")
        files[resource.name] = resource.digest
        combined.update(bytes.fromhex(resource.digest))
    if not files or (_UNNAMED in files and len(files) > 1):
        raise _malformed("it lists no files, or an unnamed file together with others")
    _expect("the subject's sha256", statement.subject[0].digest.sha256, combined.hexdigest())
    return files


def _is_normal(name: str) -> bool:
    """Return whether a name is a normalised path inside the directory."""
    path = PurePosixPath(name)
    return name == _UNNAMED or (
        bool(name) and str(path) == name and not path.is_absolute() and ".." not in path.parts and name.isprintable()
    )


def _load(content: bytes) -> object:
    try:
        return json.loads(content.decode(), object_pairs_hook=_reject_duplicates, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise _malformed("it has a field twice")
    return document


def _refuse_constant(name: str) -> None:
    raise _malformed(f"it has {name}, which is not JSON")


def _convert(document: object, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        problem = _quoted(str(error))[1:-1]
        raise _malformed(f"{problem[:1].lower()}{problem[1:]}") from error


def _decode(text: str, field: str) -> bytes:
    """Decode canonical base64."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded or base64.b64encode(decoded).decode() != text:
        raise _malformed(f"its {field} is not base64")
    return decoded


def _malformed(problem: str) -> ValueError:
    """Return the error for a malformed signature; the problem completes the sentence of the message."""
    return ValueError(problem)


def _expect(field: str, found: object, expected: object) -> None:
    if found != expected:
        raise _malformed(f"{field} is {_quoted(found)}, expected {expected!r}")


def _quoted(found: object) -> str:
    """Return the repr of untrusted text, shortened in the middle if it is long."""
    text = repr(found)
    return text if len(text) <= 200 else f"{text[:100]} … {text[-90:]}"  # noqa: PLR2004


def _abbreviated(names: Mapping[str, str]) -> str:
    first = ", ".join(map(repr, list(names)[:5]))
    return first if len(names) <= 5 else f"{first} and {len(names) - 5} more"  # noqa: PLR2004
