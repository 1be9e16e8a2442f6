"""The public keys and root certificates that a model's signature is verified with."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from loader.errors import IntegrityError

_MAX_SIZE = 1 << 20
_BLOCK = re.compile(rb"-----BEGIN ([^\r\n]*?)-----.*?-----END \1-----", re.DOTALL)
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)
_CURVES = "an ECDSA key on P-256, P-384 or P-521"


class UntrustedError(Exception):
    """A key or certificate that is not trusted; the message completes a sentence."""


class TrustedKey:
    """A public key whose signatures are accepted.

    Attributes:
        hint: the sha256 of the key's PEM form, in hexadecimal, which identifies the key in signatures.
    """

    def __init__(self, key: object) -> None:
        """Raise `ValueError` unless the key is an ECDSA key on a supported curve."""
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
            raise ValueError(f"expected {_CURVES}")
        self._key = key
        self.hint = hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether the DER signature of the message is valid for this key."""
        try:
            self._key.verify(signature, message, ec.ECDSA(_HASHES[self._key.curve.name]))
        except InvalidSignature:
            return False
        return True


class Trust:
    """The trusted keys and root certificates.

    Args:
        keys: the keys by their hints.
        roots: the certificates to which a signer's certificate must chain.
        now: the time at which certificates must be valid.
    """

    def __init__(
        self, keys: Mapping[str, TrustedKey], roots: Sequence[x509.Certificate] = (), now: datetime | None = None
    ) -> None:
        self._keys = keys
        self._roots = roots
        self._now = now or datetime.now(UTC)

    @classmethod
    def read(cls, keys: Path | None, certificates: Path | None) -> "Trust":
        """Read the keys and the root certificates from two PEM files; each file is optional.

        Raises:
            IntegrityError: a file cannot be read, or contains anything except public keys (or certificates).
        """
        return cls(_read_keys(keys) if keys else {}, _read_roots(certificates) if certificates else [])

    def key(self, hint: str) -> TrustedKey:
        """Return the trusted key with this hint.

        Raises:
            UntrustedError: no trusted key has this hint.
        """
        if hint in self._keys:
            return self._keys[hint]
        known = f"MODEL_SIGNATURE_KEY has {', '.join(self._keys)}" if self._keys else "MODEL_SIGNATURE_KEY is not set"
        raise UntrustedError(f"it names the key {hint}, but {known}")

    def certified_key(self, chain: Sequence[bytes]) -> TrustedKey:
        """Return the key of a signer's certificate.

        Args:
            chain: the signer's certificate and the intermediate certificates, each in DER.

        Raises:
            UntrustedError: the certificate does not chain to a trusted root, is not valid now, or is not for signing.
            ValueError: one of them is not a certificate, or has an unsupported key.
        """
        if not self._roots:
            raise UntrustedError("it was signed with a certificate, but MODEL_SIGNATURE_CERTIFICATES is not set")
        leaf, *others = map(x509.load_der_x509_certificate, chain)
        name = repr(leaf.subject.rfc4514_string())
        for problem, limit in (
            ("expired", leaf.not_valid_after_utc),
            ("is not valid before", leaf.not_valid_before_utc),
        ):
            if (self._now > limit) is (problem == "expired"):
                raise UntrustedError(f"its certificate {name} {problem} {limit:%Y-%m-%d %H:%M} UTC")
        _require_signing(leaf, name)
        authorities = (
            ExtensionPolicy.permit_all()
            .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
            .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _require_authority)
        )
        verifier = (
            PolicyBuilder()
            .store(Store(list(self._roots)))
            .time(self._now)
            .extension_policies(ca_policy=authorities, ee_policy=ExtensionPolicy.permit_all())
            .build_client_verifier()
        )
        try:
            verifier.verify(leaf, others)
        except VerificationError as error:
            reason = str(error).removeprefix("validation failed: ").partition(" (encountered")[0]
            raise UntrustedError(
                f"its certificate {name} does not chain to a root in MODEL_SIGNATURE_CERTIFICATES ({reason})"
            ) from error
        return TrustedKey(leaf.public_key())


def _require_signing(leaf: x509.Certificate, name: str) -> None:
    """Raise `UntrustedError` unless a certificate is for code signing; a server certificate must not sign models."""
    usage = _extension(leaf, x509.KeyUsage)
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if (
        (usage is None and extended is None)
        or (usage and not usage.digital_signature)
        or (extended and ExtendedKeyUsageOID.CODE_SIGNING not in extended)
    ):
        raise UntrustedError(
            f"its certificate {name} is not for signing: expected the key usage digitalSignature and, if it has an "
            "extended key usage, codeSigning"
        )


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _require_authority(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("its key usage is not keyCertSign")


def _read_keys(path: Path) -> dict[str, TrustedKey]:
    keys = [
        _load_key(path, number, block)
        for number, block in enumerate(_read_pem_blocks(path, b"PUBLIC KEY", "MODEL_SIGNATURE_KEY"), 1)
    ]
    return {key.hint: key for key in keys}


def _load_key(path: Path, number: int, block: bytes) -> TrustedKey:
    try:
        return TrustedKey(load_pem_public_key(block))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IntegrityError(
            "trust-unusable", f"MODEL_SIGNATURE_KEY: key {number} in {path} cannot be used: expected {_CURVES}"
        ) from error


def _read_roots(path: Path) -> list[x509.Certificate]:
    blocks = _read_pem_blocks(path, b"CERTIFICATE", "MODEL_SIGNATURE_CERTIFICATES")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError as error:
        raise IntegrityError(
            "trust-unusable", f"MODEL_SIGNATURE_CERTIFICATES: {path} has a certificate that cannot be read"
        ) from error


def _read_pem_blocks(path: Path, label: bytes, setting: str) -> list[bytes]:
    """Return the PEM blocks of a file, which must all have this label."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SIZE)
    except OSError as error:
        raise IntegrityError("trust-unusable", f"{setting}: cannot read {path}: {error.strerror}") from error
    found = list(_BLOCK.finditer(content))
    if not found or content.count(b"-----BEGIN") != len(found) or any(match[1] != label for match in found):
        labels = ", ".join(sorted({match[1].decode(errors="replace") for match in found})) or "no PEM block"
        raise IntegrityError(
            "trust-unusable",
            f"{setting}: {path} has {labels!r}, expected only PEM blocks with the label {label.decode()!r}",
        )
    return [match[0] + b"\n" for match in found]
