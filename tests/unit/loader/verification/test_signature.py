"""Signatures made by `model_signing` are accepted; signatures with any change are refused."""

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import IntegrityError
from loader.verification.signature import MAX_SIGNATURE_SIZE, SignedModel, verify_signature
from loader.verification.trust import Trust, TrustedKey
from tests.support.signing import Key, certified, payload_of, sign
from volume.receipt import SignatureRecord

URI = "gs://models/iris/model.sig"
CONTENTS = {"model.onnx": b"model", "label.json": b"{}", "parts/weights ä": b"weights"}
FILES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
KEY = Key()


def write(directory: Path) -> Path:
    for name, content in CONTENTS.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def trust(*keys: Key) -> Trust:
    trusted = [TrustedKey(key.private.public_key()) for key in keys]
    return Trust({key.hint: key for key in trusted})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A signature of the contents by the key."""
    return sign(write(tmp_path_factory.mktemp("signed") / "model"), KEY)


@pytest.fixture
def bundle(made: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(made)
    return document


def refusal(content: bytes, trusted: Trust | None = None) -> tuple[str, str]:
    """Return the code and the message of the error for a signature."""
    with pytest.raises(IntegrityError) as refused:
        verify_signature(content, URI, trusted or trust(KEY))
    assert "\n" not in str(refused.value)
    assert URI in str(refused.value)
    return refused.value.code, str(refused.value)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_key_of_each_curve_signs(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = Key(ec.generate_private_key(curve))
    content = sign(write(tmp_path / "model"), key)
    signed = verify_signature(content, URI, trust(Key(), key))
    hint = hashlib.sha256(key.public_pem).hexdigest()
    record = SignatureRecord(uri=URI, sha256=hashlib.sha256(content).hexdigest(), key=hint)
    assert signed == SignedModel(record=record, files=FILES)


def test_a_certificate_signs(tmp_path: Path) -> None:
    root = certified("root", authority=True)
    authority = certified("authority", root, authority=True)
    signer = certified("signer", authority)
    content = sign(write(tmp_path / "model"), signer.key, [signer, authority])
    signed = verify_signature(content, URI, Trust({}, [root.certificate]))
    assert (signed.files, signed.record.key) == (FILES, hashlib.sha256(signer.key.public_pem).hexdigest())
    assert refusal(content, Trust({}, [certified("root", authority=True).certificate]))[0] == "signature-untrusted"
    assert refusal(content)[0] == "signature-untrusted"


def test_a_signature_of_one_file_lists_no_label_file(tmp_path: Path) -> None:
    model = write(tmp_path / "model") / "model.onnx"
    signed = verify_signature(sign(model, KEY), URI, trust(KEY))
    with pytest.raises(IntegrityError, match=r"lists only one file without a name, but not 'label\.json'"):
        signed.check_listed("label.json", "gs://models/iris/label.json")


def test_each_file_must_be_listed_with_its_digest(made: bytes) -> None:
    signed = verify_signature(made, URI, trust(KEY))
    for name, sha256 in FILES.items():
        assert signed.check_listed(name, "gs://any") == sha256
        signed.check(name, "gs://any", sha256)
        with pytest.raises(IntegrityError, match=f"^gs://x has the sha256 0+, but {URI} lists {sha256} for ") as other:
            signed.check(name, "gs://x", "0" * 64)
        assert other.value.code == "signed-file-mismatch"
    with pytest.raises(IntegrityError, match=r"^gs://x is not signed: .* but not 'other'") as unlisted:
        signed.check("other", "gs://x", FILES["model.onnx"])
    assert unlisted.value.code == "file-not-signed"


def test_the_key_of_an_untrusted_signature_is_named(made: bytes, bundle: dict[str, Any]) -> None:
    code, message = refusal(made, trust(Key()))
    assert (code, bundle["verificationMaterial"]["publicKey"]["hint"] in message) == ("signature-untrusted", True)
    bundle["verificationMaterial"]["publicKey"]["hint"] = hashlib.sha256(Key().public_pem).hexdigest()
    assert refusal(json.dumps(bundle).encode())[0] == "signature-untrusted"


def paths(document: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every field and element in a document."""
    if isinstance(document, dict):
        return [path] + [found for name, value in document.items() for found in paths(value, (*path, name))]
    if isinstance(document, list):
        return [path] + [found for index, value in enumerate(document) for found in paths(value, (*path, index))]
    return [path]


def changed(document: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return a copy of a document in which the field at the path is changed by a function of its parent."""
    made = copy.deepcopy(document)
    around = made
    for step in path[:-1]:
        around = around[step]
    change(around, path[-1])
    return made


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def removed(around: Any, step: Any) -> None:
    del around[step]


def replaced_by(value: object) -> Callable[[Any, Any], None]:
    def replace(around: Any, step: Any) -> None:
        around[step] = value

    return replace


OPTIONAL = {("verificationMaterial", "tlogEntries"), ("dsseEnvelope", "signatures", 0, "keyid")}
STRANGE: list[object] = [None, 1, 1.5, True, "", "text/", [], ["text"], {}, {"a": "b"}]


def test_each_field_of_the_bundle_is_required_once_and_of_its_type(made: bytes, bundle: dict[str, Any]) -> None:
    count = 0
    for path in paths(bundle)[1:]:
        variants = [] if path in OPTIONAL else [changed(bundle, path, removed)]
        variants += [changed(bundle, path, replaced_by(value)) for value in STRANGE]
        for variant in variants:
            if variant != bundle:
                count += 1
                assert refusal(json.dumps(variant).encode())[0] in ("signature-malformed", "signature-untrusted"), path
        name = json.dumps(path[-1])
        if isinstance(path[-1], str):
            doubled = made.replace(f"{name}:".encode(), f"{name}:1,{name}:".encode(), 1)
            assert refusal(doubled) == (
                "signature-malformed",
                f"{URI} is not a model's signature: it has a field twice",
            )
    for path in paths(bundle):
        extended = (
            changed({"": bundle}, ("", *path, "more"), replaced_by(1)) if isinstance(at(bundle, path), dict) else None
        )
        if extended:
            count += 1
            assert refusal(json.dumps(extended[""]).encode())[0] == "signature-malformed"
    assert count > 100


def test_each_field_of_the_statement_is_required_once_and_of_its_type(bundle: dict[str, Any]) -> None:
    statement = payload_of(bundle)
    material = bundle["verificationMaterial"]
    ignored = [("subject", 0, "name"), ("predicate", "serialization", "ignore_paths")]
    count = 0
    for path in paths(statement)[1:]:
        if path[:3] == ignored[1] or path == ignored[0]:
            continue
        for variant in [
            changed(statement, path, removed),
            *(changed(statement, path, replaced_by(value)) for value in STRANGE),
        ]:
            is_switch = (
                path[-1] == "allow_symlinks" and variant["predicate"]["serialization"].get("allow_symlinks") is True
            )
            if variant != statement and not is_switch:
                count += 1
                signed = json.dumps(KEY.signed(json.dumps(variant).encode(), material)).encode()
                assert refusal(signed)[0] == "signature-malformed", (path, variant)
        if isinstance(path[-1], str):
            name = json.dumps(path[-1])
            doubled = json.dumps(statement).replace(f"{name}: ", f"{name}: 1, {name}: ", 1)
            signed = json.dumps(KEY.signed(doubled.encode(), material)).encode()
            assert refusal(signed)[1].endswith("it has a field twice")
    assert count > 150


def resources(*listed: tuple[str, str]) -> dict[str, Any]:
    digests = b"".join(bytes.fromhex(digest) for _, digest in listed)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": hashlib.sha256(digests).hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
            "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in listed],
        },
    }


def with_field(path: tuple[Any, ...], value: object) -> dict[str, Any]:
    document: dict[str, Any] = changed(resources(("model.onnx", "a" * 64)), path, replaced_by(value))
    return document


SERIALIZATION, SUBJECT = ("predicate", "serialization"), ("subject",)
WRONG_STATEMENTS: dict[str, dict[str, Any]] = {
    "shards": with_field((*SERIALIZATION, "method"), "shards"),
    "another method": with_field((*SERIALIZATION, "method"), "FILES"),
    "a shard's size": with_field((*SERIALIZATION, "shard_size"), 1000),
    "sha512": with_field((*SERIALIZATION, "hash_type"), "sha512"),
    "blake3": with_field((*SERIALIZATION, "hash_type"), "blake3"),
    "blake2 for a file": with_field(("predicate", "resources", 0, "algorithm"), "blake2b"),
    "the digest of a weak hash": with_field(("predicate", "resources", 0, "digest"), "a" * 32),
    "a digest in uppercase": with_field(("predicate", "resources", 0, "digest"), "A" * 64),
    "another field of a file": with_field(("predicate", "resources", 0, "size"), 5),
    "several subjects": with_field(SUBJECT, resources(("a", "b" * 64))["subject"] * 2),
    "no subject": with_field(SUBJECT, []),
    "the subject of another model": with_field((*SUBJECT, 0, "digest", "sha256"), "b" * 64),
    "another digest of the subject": with_field((*SUBJECT, 0, "digest", "sha512"), "b" * 128),
    "another predicate": with_field(("predicateType",), "https://slsa.dev/provenance/v1"),
    "the old predicate": with_field(("predicateType",), "https://model_signing/Digests/v0.1"),
    "the old statement": with_field(("_type",), "https://in-toto.io/Statement/v0.1"),
    "another field of the statement": with_field(("more",), "x"),
    "no files": resources(),
    "a name twice": resources(("a", "a" * 64), ("a", "b" * 64)),
    "one file beside others": resources((".", "a" * 64), ("b", "b" * 64)),
    **{
        f"the name {name!r}": resources((name, "a" * 64))
        for name in (
            "",
            "..",
            "../a",
            "a/../b",
            "/a",
            "//a",
            "./a",
            "a//b",
            "a/",
            "a/.",
            "a\n",
            "a\0",
            "\x1b[2J",
            "a\u202e",
        )
    },
}


@pytest.mark.parametrize("kind", WRONG_STATEMENTS)
def test_a_wrong_statement_is_refused_though_it_is_signed(bundle: dict[str, Any], kind: str) -> None:
    payload = json.dumps(WRONG_STATEMENTS[kind]).encode()
    code, message = refusal(json.dumps(KEY.signed(payload, bundle["verificationMaterial"])).encode())
    assert (code, message.isprintable()) == ("signature-malformed", True)


def test_other_fields_of_the_predicate_are_ignored(bundle: dict[str, Any]) -> None:
    payload = json.dumps(with_field(("predicate", "more"), {"a": 1})).encode()
    signed = verify_signature(json.dumps(KEY.signed(payload, bundle["verificationMaterial"])).encode(), URI, trust(KEY))
    assert signed.files == {"model.onnx": "a" * 64}


def envelope(bundle: dict[str, Any], **fields: object) -> bytes:
    return json.dumps({**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], **fields}}).encode()


def test_wrong_bundles_are_refused(bundle: dict[str, Any]) -> None:
    inner, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
    root = certified("root", authority=True)
    chain = {"certificates": [{"rawBytes": base64.b64encode(b"no certificate").decode()}]}
    wrong = {
        b"": "it is not|expecting value",
        b"\xff": "it is not UTF-8",
        b"[" * 100_000: "nested too deeply",
        b"[]": "expected `object`",
        b" " * (MAX_SIGNATURE_SIZE + 1): "expected at most",
        b'{"a": NaN}': "NaN, which is not JSON",
        json.dumps({**bundle, "mediaType": "application/vnd.dev.sigstore.bundle.v0.2+json"}).encode(): "mediaType is",
        envelope(bundle, payloadType="text/plain"): "payloadType is",
        envelope(bundle, signatures=inner["signatures"] * 2): "number of signatures is 2",
        envelope(bundle, signatures=[]): "number of signatures is 0",
        envelope(bundle, signatures=[{**inner["signatures"][0], "keyid": "x"}]): "keyid is",
        envelope(bundle, signatures=[{"sig": "", "keyid": ""}]): "sig is not base64",
        envelope(bundle, payload=inner["payload"] + "\n"): "payload is not base64",
        envelope(bundle, payload=inner["payload"].rstrip("=") + "===="): "payload is not base64",
        json.dumps({**bundle, "verificationMaterial": {}}).encode(): "exactly one of",
        json.dumps(
            {**bundle, "verificationMaterial": {**material, "x509CertificateChain": chain}}
        ).encode(): "exactly one of",
        json.dumps({**bundle, "verificationMaterial": {"publicKey": {"hint": "a"}}}).encode(): "expected a sha256",
        json.dumps({**bundle, "verificationMaterial": {"certificate": {"rawBytes": "YQ=="}}}).encode(): "keyless",
        json.dumps({**bundle, "verificationMaterial": {**material, "tlogEntries": [{}]}}).encode(): "keyless",
        json.dumps(
            {**bundle, "verificationMaterial": {"x509CertificateChain": {"certificates": []}}}
        ).encode(): "1 to 10",
    }
    for content, finding in wrong.items():
        code, message = refusal(content)
        assert code == "signature-malformed"
        assert pytest.RaisesExc(ValueError, match=f"(?i){finding}").matches(ValueError(message)), message
    code, _ = refusal(
        json.dumps({**bundle, "verificationMaterial": {"x509CertificateChain": chain}}).encode(),
        Trust({}, [root.certificate]),
    )
    assert code == "signature-malformed"


def test_a_changed_statement_and_a_foreign_signature_are_invalid(bundle: dict[str, Any]) -> None:
    statement = payload_of(bundle)
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    changed_payload = base64.b64encode(json.dumps(statement).encode()).decode()
    assert refusal(envelope(bundle, payload=changed_payload))[0] == "signature-invalid"
    other = Key().signed(json.dumps(payload_of(bundle)).encode(), bundle["verificationMaterial"])
    assert refusal(json.dumps(other).encode())[0] == "signature-invalid"
    # Before 1.0, model_signing signed the Python repr of the payload, which its verifier still accepts.
    inner = bundle["dsseEnvelope"]
    payload = base64.b64decode(inner["payload"])
    text = f"DSSEv1 28 application/vnd.in-toto+json {len(payload)} {payload!r}".encode()
    signature = KEY.private.sign(text, ec.ECDSA(hashes.SHA256()))
    old = envelope(bundle, signatures=[{"sig": base64.b64encode(signature).decode()}])
    assert refusal(old)[0] == "signature-invalid"


def test_the_signature_of_another_model_lists_other_files(tmp_path: Path) -> None:
    directory = write(tmp_path / "model")
    (directory / "model.onnx").write_bytes(b"another model")
    signed = verify_signature(sign(directory, KEY), URI, trust(KEY))
    with pytest.raises(IntegrityError, match="upload the signed file, or sign the new one"):
        signed.check("model.onnx", "gs://models/iris/model.onnx", FILES["model.onnx"])


def meaning(bundle: Any) -> Any:
    """Return a bundle without its optional fields."""
    made = copy.deepcopy(bundle)
    with_defaults = [
        (made.get("verificationMaterial"), "tlogEntries", []),
        *((each, "keyid", "") for each in made["dsseEnvelope"]["signatures"]),
    ]
    for around, name, default in with_defaults:
        if around.get(name, None) == default:
            del around[name]
    return made


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
VALUES = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=5), LEAVES, max_size=2)


def accepted(content: bytes) -> bool:
    try:
        verify_signature(content, URI, trust(KEY))
    except IntegrityError:
        return False
    return True


@given(st.data())
def test_no_bundle_with_another_value_is_accepted(made: bytes, data: st.DataObject) -> None:
    bundle = json.loads(made)
    mutated = bundle
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(mutated)[1:]))
        before, around = at(mutated, path[:-1]), at(mutated, path)
        change = data.draw(st.sampled_from(["value", "remove", "add", "text"]))
        if change == "remove":
            mutated = changed(mutated, path, removed)
        elif change == "add" and isinstance(before, dict):
            mutated = changed(mutated, (*path[:-1], data.draw(st.text(max_size=8))), replaced_by(data.draw(VALUES)))
        elif change == "text" and isinstance(around, str) and around:
            cut = data.draw(st.integers(0, len(around) - 1))
            letter = data.draw(st.characters(codec="utf-8"))
            mutated = changed(mutated, path, replaced_by(around[:cut] + letter + around[cut + 1 :]))
        else:
            mutated = changed(mutated, path, replaced_by(data.draw(VALUES)))
        if not paths(mutated)[1:]:
            break
    assert not accepted(json.dumps(mutated).encode()) or meaning(mutated) == meaning(bundle)


@given(st.data())
def test_no_bundle_with_other_bytes_is_accepted(made: bytes, data: st.DataObject) -> None:
    content = bytearray(made)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    if accepted(bytes(content)):
        assert meaning(json.loads(content)) == meaning(json.loads(made))
