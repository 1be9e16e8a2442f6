"""Only models that are signed by a trusted key are published; others are refused with a reason."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.loader.conftest import MODEL, Pair, make_labels, with_external_data
from tests.integration.loader.fault_server import FaultServer, StoredObject
from tests.integration.loader.running import Target, assert_failed
from tests.support.signing import Key, certified, sign

KEY = Key()
ROOT = certified("root", authority=True)
SIGNER = certified("signer", ROOT)


@dataclass
class Signed:
    """A signed model at the source, and its target."""

    directory: Path
    target: Target

    def trust(self, *keys: Key) -> None:
        """Trust these keys."""
        path = self.directory.parent / "keys.pem"
        path.write_bytes(b"".join(key.public_pem for key in keys))
        self.target.settings["MODEL_SIGNATURE_KEY"] = str(path)

    def change(self, name: str, content: bytes) -> None:
        """Overwrite a file at the source."""
        (self.directory / name).write_bytes(content)


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    """A model with external data, signed by a trusted key."""
    directory = tmp_path / "source ä"
    directory.mkdir()
    made = Signed(directory, Target(tmp_path / "workdir", {"MODEL_URI": str(directory / "model.onnx")}))
    made.change("model.onnx", with_external_data("weights.bin"))
    made.change("weights.bin", b"1" * 4000)
    made.change("label.json", make_labels("a", "b"))
    sign(directory, KEY)
    made.trust(Key(), KEY)
    return made


def test_a_signed_model_is_published_with_its_signer(signed: Signed) -> None:
    run = signed.target.load()
    assert run.exit_code == 0, run
    receipt = signed.target.receipt()
    assert receipt
    assert receipt.signature
    assert receipt.signature.uri == (signed.directory / "model.sig").as_uri()
    assert run.named("done")[0]["signed_by"] == receipt.signature.key
    bundle = json.loads((signed.directory / "model.sig").read_text())
    assert receipt.signature.key == bundle["verificationMaterial"]["publicKey"]["hint"]
    assert signed.target.load().named("done")[0]["in_place"] is True
    assert signed.target.load(dry_run=True).named("would_load")[0]["signed_by"] == receipt.signature.key


def test_a_signature_that_is_required_later_is_recorded(signed: Signed) -> None:
    del signed.target.settings["MODEL_SIGNATURE_KEY"]
    signed.target.load()
    signed.trust(KEY)
    assert signed.target.load().named("done")[0]["in_place"] is False
    receipt = signed.target.receipt()
    assert receipt
    assert receipt.signature
    del signed.target.settings["MODEL_SIGNATURE_KEY"]
    signed.target.load()
    assert (signed.target.receipt() or receipt).signature is None


def test_signed_names_are_those_at_the_source(signed: Signed) -> None:
    run = signed.target.load(
        model_filepath=signed.target.directory / "m", label_filepath=signed.target.directory / "labels" / "l"
    )
    assert run.exit_code == 0, run


def test_the_signature_can_be_in_another_directory(signed: Signed) -> None:
    elsewhere = signed.directory.parent / "signatures" / "1.sig"
    elsewhere.parent.mkdir()
    (signed.directory / "model.sig").rename(elsewhere)
    assert_failed(signed.target.load(), 5, "the model must be signed, but its signature cannot be found")
    assert signed.target.load(model_signature=elsewhere).exit_code == 0


def test_labels_outside_the_signed_directory_are_not_signed(signed: Signed) -> None:
    outside = signed.directory.parent / "label.json"
    (signed.directory / "label.json").rename(outside)
    assert_failed(signed.target.load(label_uri=outside), 5, f"{outside.as_uri()} is not signed")
    signed.target.assert_empty()


def with_payload(signature: bytes, payload: str) -> bytes:
    bundle = json.loads(signature)
    bundle["dsseEnvelope"]["payload"] = payload
    return json.dumps(bundle).encode()


CHANGES: dict[str, tuple[Callable[[Signed], object], str, str]] = {
    "no signature": (lambda it: (it.directory / "model.sig").unlink(), "signature-missing", "cannot be found"),
    "not a signature": (lambda it: it.change("model.sig", b"{}"), "signature-malformed", "is not a model's signature"),
    "a vast file": (
        lambda it: it.change("model.sig", bytes((4 << 20) + 1)), "signature-malformed", "expected at most 4194304"
    ),
    "another key": (lambda it: it.trust(Key()), "signature-untrusted", "not from a trusted signer: it names the key"),
    "no key": (lambda it: it.trust(), "trust-unusable", "has 'no PEM block'"),
    "a signature for nothing": (
        lambda it: it.change("model.sig", with_payload((it.directory / "model.sig").read_bytes(), "e30=")),
        "signature-invalid", "is not a valid signature of its contents by the key",
    ),
    "another model": (
        lambda it: it.change("model.onnx", with_external_data("weights.bin") + b"\x72\x05\x0a\x03new"),
        "signed-file-mismatch", "model.onnx has the sha256",
    ),
    "other labels": (
        lambda it: it.change("label.json", make_labels("b", "a")),
        "signed-file-mismatch", "label.json has the sha256",
    ),
    "other weights": (
        lambda it: it.change("weights.bin", b"2" * 4000), "signed-file-mismatch", "weights.bin has the sha256"
    ),
    "weights that were added": (
        lambda it: (
            (it.directory / "weights.bin").rename(it.directory.parent / "kept"),
            sign(it.directory, KEY),
            (it.directory.parent / "kept").rename(it.directory / "weights.bin"),
        ),
        "file-not-signed", "weights.bin is not signed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_any_difference_is_refused_and_nothing_is_published(signed: Signed, kind: str) -> None:
    change, code, finding = CHANGES[kind]
    change(signed)
    for dry in (True, False):
        run = signed.target.load(dry_run=dry)
        assert_failed(run, 5, finding)
        assert json.loads(run.error)["code"] == code
    signed.target.assert_empty()


def test_a_certificate_that_leads_to_the_root(signed: Signed) -> None:
    sign(signed.directory, SIGNER.key, [SIGNER, ROOT])
    roots = signed.directory.parent / "roots.pem"
    roots.write_bytes(ROOT.pem)
    assert signed.target.load(model_signature_key="", model_signature_certificates=roots).exit_code == 0
    roots.write_bytes(certified("root", authority=True).pem)
    run = signed.target.load(model_signature_key="", model_signature_certificates=roots)
    assert_failed(run, 5, "does not chain to a root in MODEL_SIGNATURE_CERTIFICATES")


def test_the_signature_is_verified_before_the_download(
    tmp_path: Path, signed: Signed, target: Target, server: FaultServer, pair: Pair
) -> None:
    directory = tmp_path / "bucket"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(pair[0])
    (directory / "label.json").write_bytes(pair[1])
    server.objects["iris/1/model.sig"] = StoredObject(sign(directory, KEY))
    target.settings["MODEL_SIGNATURE_KEY"] = signed.target.settings["MODEL_SIGNATURE_KEY"]
    assert target.load().exit_code == 0
    target.assert_holds(*pair)

    server.requests.clear()
    signed.trust(Key())
    assert_failed(target.load(), 5, "is not from a trusted signer")
    assert {line.split()[1] for line in server.requests if line.startswith("media")} == {"iris/1/model.sig"}
    assert target.load(dry_run=True).exit_code == 5
    assert MODEL in server.objects


def test_inconsistent_settings_are_refused(signed: Signed) -> None:
    run = signed.target.load(model_signature="model.sig", model_signature_key="")
    assert_failed(run, 2, "MODEL_SIGNATURE is set, but neither MODEL_SIGNATURE_KEY nor")


def test_a_key_hint_cannot_control_a_terminal(signed: Signed) -> None:
    bundle = json.loads((signed.directory / "model.sig").read_bytes())
    bundle["verificationMaterial"]["publicKey"]["hint"] = "\x1b[2J\x9b31m\u202e"
    signed.change("model.sig", json.dumps(bundle).encode())
    run = signed.target.load()
    assert_failed(run, 5, "is not a model's signature")
    assert run.error.strip().isprintable()
