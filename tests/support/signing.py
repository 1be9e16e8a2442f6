"""Models signed by the program that their owners use, and keys and certificates to sign them with."""

import base64
import json
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.processes import interpreter

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_HASHES = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
_SIGNING = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
_AUTHORITY = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


@dataclass
class Key:
    """A key to sign with."""

    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        """The private key."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_pem(self) -> bytes:
        """The public key."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def signed(self, payload: bytes, material: dict[str, Any]) -> dict[str, Any]:
        """Return a bundle of any payload, signed."""
        message = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
        signature = self.private.sign(message, ec.ECDSA(_HASHES[self.private.curve.key_size]))
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }


@dataclass
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)


def certified(
    name: str,
    issuer: Identity | None = None,
    *,
    authority: bool = False,
    days: tuple[float, float] = (-1, 10),
    usage: x509.KeyUsage | None = None,
    extended: list[x509.ObjectIdentifier] | None = None,
) -> Identity:
    """Return a new certificate that the issuer, or itself, has signed; it is valid between two days from now."""
    key = Key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage or (_AUTHORITY if authority else _SIGNING), critical=True)
    )
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    return Identity(builder.sign((issuer.key if issuer else key).private, hashes.SHA256()), key)


def sign(model: Path, key: Key, chain: list[Identity] | None = None) -> bytes:
    """Sign a model's directory, or one file, as its owner does, and return the signature.

    Args:
        model: the directory; the signature becomes its `model.sig`.
        key: the key to sign with.
        chain: the signer's certificate and those above it, but not the root; none signs with the bare key.
    """
    directory = model if model.is_dir() else model.parent
    keys = directory.parent / f"{directory.name}-keys"
    keys.mkdir(exist_ok=True)
    (keys / "key.pem").write_bytes(key.pem)
    method = ["key"]
    if chain:
        for number, identity in enumerate(chain):
            (keys / f"{number}.pem").write_bytes(identity.pem)
        method = ["certificate", "--signing_certificate", str(keys / "0.pem")]
        for number in range(1, len(chain)):
            method += ["--certificate_chain", str(keys / f"{number}.pem")]
    signature = directory / "model.sig"
    subprocess.run(
        [
            interpreter("signing"), "-m", "model_signing", "sign", *method,
            "--private_key", keys / "key.pem", "--signature", signature, model,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return signature.read_bytes()


def payload_of(bundle: dict[str, Any]) -> dict[str, Any]:
    """Return the statement in a bundle."""
    statement: dict[str, Any] = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return statement


CODE_SIGNING, SERVER_AUTH = ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH
