"""Key files, root files and the certificates that are trusted for signing."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from loader.errors import IntegrityError
from loader.verification.trust import Trust, UntrustedError
from tests.support.signing import CODE_SIGNING, SERVER_AUTH, Identity, Key, certified

ROOT = certified("root", authority=True)
AUTHORITY = certified("authority", ROOT, authority=True)


def der(*chain: Identity) -> list[bytes]:
    return [identity.certificate.public_bytes(Encoding.DER) for identity in chain]


def public_pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def untrusted(*chain: Identity, now: datetime | None = None) -> str:
    with pytest.raises(UntrustedError) as refused:
        Trust({}, [ROOT.certificate], now).certified_key(der(*chain))
    return str(refused.value)


def test_a_file_may_have_several_keys(tmp_path: Path) -> None:
    keys = [Key(), Key(ec.generate_private_key(ec.SECP384R1()))]
    path = tmp_path / "keys.pem"
    path.write_bytes(b"# the new one\n" + keys[0].public_pem + b"\n" + keys[1].public_pem.replace(b"\n", b"\r\n"))
    trust = Trust.read(path, None)
    for key in keys:
        hint = hashlib.sha256(key.public_pem).hexdigest()
        assert trust.key(hint).hint == hint
    with pytest.raises(UntrustedError, match=r"names the key a+, but MODEL_SIGNATURE_KEY has"):
        trust.key("a" * 64)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        pytest.param(b"", "'no PEM block', expected only", id="nothing"),
        pytest.param(Key().pem, "'PRIVATE KEY', expected only", id="a private key"),
        pytest.param(Key().public_pem + Key().pem, "'PRIVATE KEY, PUBLIC KEY', expected", id="a private key beside it"),
        pytest.param(ROOT.pem, "'CERTIFICATE', expected only", id="a certificate"),
        pytest.param(Key().public_pem[:-10], "'no PEM block'", id="a cut key"),
        pytest.param(Key().public_pem + Key().public_pem[:-10], "'PUBLIC KEY', expected", id="a cut second key"),
        pytest.param(
            b"-----BEGIN PUBLIC KEY-----\nYQ==\n-----END PUBLIC KEY-----", "key 1 in .* cannot be used", id="no key"
        ),
        pytest.param(public_pem(ed25519.Ed25519PrivateKey.generate()), "expected an ECDSA key on P-256", id="Ed25519"),
        pytest.param(public_pem(rsa.generate_private_key(65537, 2048)), "expected an ECDSA key on P-256", id="RSA"),
        pytest.param(public_pem(ec.generate_private_key(ec.SECP256K1())), "expected an ECDSA key on P-256", id="K-256"),
    ],
)
def test_other_key_files_are_refused(tmp_path: Path, content: bytes, finding: str) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"^MODEL_SIGNATURE_KEY: .*{finding}") as refused:
        Trust.read(path, None)
    assert refused.value.code == "trust-unusable"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing"
    with pytest.raises(IntegrityError, match=f"^MODEL_SIGNATURE_KEY: cannot read {path}: No such file"):
        Trust.read(path, None)
    with pytest.raises(IntegrityError, match=f"^MODEL_SIGNATURE_CERTIFICATES: cannot read {path}: No such file"):
        Trust.read(None, path)


def test_other_certificate_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    for content, finding in [
        (Key().public_pem, "'PUBLIC KEY', expected only"),
        (b"-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----", "certificate that cannot be read"),
    ]:
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=f"^MODEL_SIGNATURE_CERTIFICATES: .*{finding}") as refused:
            Trust.read(None, path)
        assert refused.value.code == "trust-unusable"


def test_certificates_that_chain_to_a_root_are_trusted(tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    path.write_bytes(certified("another", authority=True).pem + ROOT.pem)
    trust = Trust.read(None, path)
    direct, below = certified("direct", ROOT), certified("signer", AUTHORITY, extended=[CODE_SIGNING])
    for chain in ([direct], [below, AUTHORITY], [below, AUTHORITY, ROOT]):
        assert trust.certified_key(der(*chain)).hint == hashlib.sha256(chain[0].key.public_pem).hexdigest()


def test_certificates_must_be_valid_now() -> None:
    signer = certified("signer", AUTHORITY, days=(-2, 1))
    now = datetime.now(UTC)
    assert "its certificate 'CN=signer' expired 2" in untrusted(signer, AUTHORITY, now=now + timedelta(days=2))
    assert "is not valid before 2" in untrusted(signer, AUTHORITY, now=now - timedelta(days=3))
    late = certified("late", ROOT, authority=True, days=(-5, -1))
    assert "not valid at validation time" in untrusted(certified("signer", late), late)
    gone = certified("gone", authority=True, days=(-5, -1))
    with pytest.raises(UntrustedError, match="does not chain to a root"):
        Trust({}, [gone.certificate]).certified_key(der(certified("signer", gone)))


def test_other_chains_are_not_trusted() -> None:
    stranger = certified("root", authority=True)
    plain = certified("plain", ROOT)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    unable = certified("unable", ROOT, authority=True, usage=usage)
    chains = [
        [certified("signer", AUTHORITY)],
        [certified("signer", stranger)],
        [certified("signer", stranger), stranger],
        [certified("signer", plain), plain],
        [certified("signer", unable), unable],
        [certified("signer")],
    ]
    for chain in chains:
        assert "does not chain to a root in MODEL_SIGNATURE_CERTIFICATES (" in untrusted(*chain)


def test_a_certificate_for_another_purpose_is_refused() -> None:
    encipher = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    for signer in (
        certified("server", ROOT, extended=[SERVER_AUTH]),
        certified("server", ROOT, usage=encipher, extended=[CODE_SIGNING]),
        AUTHORITY,
        ROOT,
    ):
        assert "is not for signing: expected the key usage digitalSignature" in untrusted(signer)


def test_without_roots_no_certificate_is_trusted() -> None:
    with pytest.raises(UntrustedError, match="but MODEL_SIGNATURE_CERTIFICATES is not set"):
        Trust({}).certified_key(der(certified("signer", ROOT)))
    with pytest.raises(UntrustedError, match="but MODEL_SIGNATURE_KEY is not set"):
        Trust({}).key("a" * 64)
