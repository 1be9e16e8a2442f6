"""The behaviour of a load with every kind of source: the same faults in front of real servers."""

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from loader.transfer.journal import PIECE_SIZE
from tests.integration.loader.conftest import Pair, make_labels, make_model, with_external_data
from tests.integration.loader.fault_proxy import Answer, Fault, FaultProxy, fault_proxy
from tests.integration.loader.running import UNREACHABLE, Run, Target, assert_failed
from tests.integration.loader.storages import (
    LABELS,
    MODEL,
    S3,
    Gcs,
    Https,
    Oci,
    Storage,
    gcs_bytes,
    https_bytes,
    moto_server,
    oci_bytes,
    s3_bytes,
    web_files,
)
from tests.support.certificates import make_authority
from tests.support.fake_gcs import fake_gcs_server
from tests.support.registry import registry
from tests.support.signing import Key, sign
from volume.identity import model_identity

KEY = Key()
KINDS = ["gs", "s3", "s3 without versions", "https", "https without ranges", "oci"]


class Servers:
    """The servers of this test run, each started when it is first used."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._urls: dict[str, str] = {}

    @contextmanager
    def storage(self, kind: str) -> Iterator[Storage]:
        """Yield an empty storage of the kind, behind its own proxy."""
        scheme = kind.partition(" ")[0]
        if scheme not in (*self._urls, "https"):
            self._urls[scheme] = self._stack.enter_context(self._server(scheme))
        url = self._urls.get(scheme, "")
        match kind:
            case "gs":
                with fault_proxy(url, gcs_bytes) as proxy:
                    yield Gcs(proxy, url)
            case "oci":
                with fault_proxy(url, oci_bytes) as proxy:
                    yield Oci(proxy, url)
            case "https" | "https without ranges":
                with web_files() as files:
                    files.has_ranges = kind == "https"
                    url = f"http://127.0.0.1:{files.server_address[1]}"
                    authority, context = make_authority(self._directory)
                    with fault_proxy(url, https_bytes, context) as proxy:
                        yield Https(proxy, files, authority)
            case _:
                with fault_proxy(url, s3_bytes) as proxy:
                    yield S3(proxy, url, versioned=kind == "s3")

    @contextmanager
    def _server(self, scheme: str) -> Iterator[str]:
        directory = self._directory / scheme
        directory.mkdir()
        match scheme:
            case "gs":
                with fake_gcs_server(directory) as url:
                    yield url
            case "oci":
                with registry(directory) as url:
                    yield url
            case _:
                with moto_server() as url:
                    yield url


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("servers"), stack)


# The nightly run has the variants of a source, too.
@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.nightly) if " without " in kind else kind for kind in KINDS]
)
def storage(servers: Servers, request: pytest.FixtureRequest, pair: Pair) -> Iterator[Storage]:
    """A storage with the small pair."""
    with servers.storage(request.param) as storage:
        storage.put(MODEL, pair[0])
        storage.put(LABELS, pair[1])
        storage.proxy.reset_faults()
        yield storage


class Place(Target):
    """A target directory for loads from a storage."""

    storage: Storage

    def load_pair(self, model: bytes, labels: bytes, **settings: object) -> Run:
        """Run a load, with the pins of these files if the storage requires them."""
        return self.load(**{**self.storage.pins(model, labels), **settings})


@pytest.fixture
def place(tmp_path: Path, storage: Storage) -> Place:
    directory = tmp_path / "workdir"
    directory.mkdir()
    place = Place(directory, {**storage.settings, "HOME": str(tmp_path)})
    place.storage = storage
    return place


@pytest.fixture
def proxy(storage: Storage) -> FaultProxy:
    return storage.proxy


def times(count: int, fault: Fault) -> Iterator[Fault]:
    return itertools.repeat(fault, count)


def refuse(code: int, **headers: str) -> Fault:
    return lambda answer: answer.refuse(code, **headers)


def cut(answer: Answer) -> None:
    answer.start()
    answer.write(answer.content[: len(answer.content) // 2])
    answer.close()


def reset(answer: Answer) -> None:
    answer.start()
    answer.write(answer.content[:100])
    answer.reset()


def say_nothing(answer: Answer) -> None:
    answer.proxy.over.wait()


def stall(answer: Answer) -> None:
    answer.start()
    answer.write(answer.content[:100])
    answer.proxy.over.wait()


def wrong_bytes(answer: Answer) -> None:
    answer.start()
    answer.write(bytes(byte ^ 1 for byte in answer.content))


def short(answer: Answer) -> None:
    answer.start(length=len(answer.content) - 7)
    answer.write(answer.content[:-7])


def test_a_pair_is_loaded_with_its_receipt(place: Place, storage: Storage, pair: Pair) -> None:
    run = place.load_pair(*pair)

    assert (run.exit_code, run.error) == (0, "")
    receipt = place.assert_holds(*pair)
    assert (receipt.schema, receipt.attempts, receipt.model.uri) == (2, 1, storage.place)
    assert place.temporaries() == []
    [event] = place.load_pair(*pair).events
    assert event["in_place"] is True


def test_a_dry_run_reports_the_load(place: Place, storage: Storage, pair: Pair) -> None:
    run = place.load_pair(*pair, dry_run="true")
    [said] = run.events
    assert list(place.directory.iterdir()) == []
    assert not [request for request in storage.proxy.requests if request.startswith("bytes")]
    assert place.load_pair(*pair).exit_code == 0
    receipt = place.assert_holds(*pair)
    for planned, record in zip(said["artifacts"], receipt.files, strict=True):
        assert [planned[name] for name in ("uri", "version", "size", "checksums")] == [
            record.uri, record.version, record.size, record.checksums,
        ]  # fmt: skip


def test_a_version_is_pinned(place: Place, storage: Storage, pair: Pair) -> None:
    place.load_pair(*pair)
    receipt = place.receipt()
    assert receipt is not None
    assert place.load_pair(*pair, model_version=receipt.model.version).exit_code == 0
    run = place.load_pair(*pair, model_version="no-such-version" if storage.place[:2] != "gs" else "7")
    assert run.exit_code in (1, 2, 3), run
    place.assert_holds(*pair)


@pytest.mark.parametrize("name", [MODEL, LABELS])
def test_a_missing_file_is_named(place: Place, storage: Storage, pair: Pair, name: str) -> None:
    storage.delete(name)
    run = place.load_pair(*pair, label_sha256=hashlib.sha256(pair[1]).hexdigest())
    assert_failed(run, 3, name.rpartition("/")[2] if name == LABELS else storage.named)
    assert run.named("retry") == []
    place.assert_empty()


def test_an_unset_label_file_is_optional(place: Place, storage: Storage, pair: Pair) -> None:
    assert place.load_pair(*pair).exit_code == 0
    storage.delete(LABELS)
    for _ in range(2):
        run = place.load_pair(*pair, label_sha256="")
        assert (run.exit_code, run.error) == (0, "")
        assert len(run.named("no_label_file")) == 1
        assert place.model.read_bytes() == pair[0]
        assert not os.path.lexists(place.labels)
        receipt = place.receipt()
        assert receipt is not None
        assert receipt.labels is None
    storage.put(LABELS, pair[1])
    assert place.load_pair(*pair).exit_code == 0
    place.assert_holds(*pair)


@pytest.mark.parametrize("kind", ["metadata", "bytes"])
@pytest.mark.parametrize("code", [401, 403])
def test_a_forbidden_file_is_named(place: Place, storage: Storage, pair: Pair, kind: str, code: int) -> None:
    storage.proxy.on(kind, itertools.repeat(refuse(code)))
    run = place.load_pair(*pair)
    assert_failed(run, 4, storage.named, str(code))
    assert run.named("retry") == []
    place.assert_empty()


def test_a_file_replaced_during_the_load_is_loaded_again(place: Place, storage: Storage, pair: Pair) -> None:
    replacement = pair[0] + b"\x12\x01x"  # a producer name
    storage.proxy.before("bytes", lambda: storage.put(MODEL, replacement))

    run = place.load_pair(replacement, pair[1])

    if storage.is_immutable:
        place.assert_holds(*pair)
        assert place.load_pair(replacement, pair[1]).exit_code == 0
        place.assert_holds(replacement, pair[1])
        return
    assert run.exit_code == 0, run
    receipt = place.assert_holds(replacement, pair[1])
    assert receipt.attempts == 2
    assert "overwritten" in run.named("retry")[0]["reason"]
    assert place.temporaries() == []


@pytest.mark.parametrize("fault", [cut, reset, refuse(503), refuse(429, Retry_After="1"), refuse(500)])
@pytest.mark.parametrize("kind", ["metadata", "bytes"])
def test_transient_failures_are_retried(place: Place, proxy: FaultProxy, pair: Pair, kind: str, fault: Fault) -> None:
    proxy.on(kind, times(1, fault))
    run = place.load_pair(*pair)
    assert run.exit_code == 0, run
    receipt = place.assert_holds(*pair)
    # A response without a body cannot be truncated.
    assert receipt.attempts == 2 or (kind == "metadata" and fault in (cut, reset))


@pytest.mark.parametrize("kind", ["metadata", "bytes"])
def test_a_stalled_response_is_retried(place: Place, proxy: FaultProxy, pair: Pair, kind: str) -> None:
    proxy.on(kind, times(1, say_nothing))
    run = place.load_pair(*pair, stall_timeout_seconds=1.5)
    [retry] = run.named("retry")
    assert "no data received for 1.5 s" in retry["reason"]
    place.assert_holds(*pair)


def test_a_stall_in_the_body_is_retried(place: Place, proxy: FaultProxy, pair: Pair) -> None:
    proxy.on("bytes", times(1, stall))
    run = place.load_pair(*pair, stall_timeout_seconds=1.5)
    assert len(run.named("retry")) == 1
    place.assert_holds(*pair)


def test_a_retry_after_beyond_the_deadline_is_not_awaited(place: Place, proxy: FaultProxy, pair: Pair) -> None:
    proxy.on("bytes", itertools.repeat(refuse(429)))
    assert_failed(place.load_pair(*pair, load_timeout_seconds=3), UNREACHABLE, "429", "LOAD_TIMEOUT_SECONDS=3")
    place.assert_empty()


def test_a_stopped_server_is_unreachable(place: Place, proxy: FaultProxy, pair: Pair) -> None:
    proxy.shutdown()
    proxy.server_close()
    run = place.load_pair(*pair, load_timeout_seconds=3)
    assert_failed(run, UNREACHABLE, "Connection refused", "LOAD_TIMEOUT_SECONDS=3")
    assert run.named("retry")


def test_wrong_bytes_once_are_fetched_again(place: Place, storage: Storage, pair: Pair) -> None:
    storage.proxy.on("bytes", times(1, wrong_bytes))
    run = place.load_pair(*pair)
    if not storage.has_checksums:
        assert_failed(run, 5, storage.place, "MODEL_SHA256")
        place.assert_empty()
        return
    assert len(run.named("retry")) == 1, run
    place.assert_holds(*pair)


@pytest.mark.parametrize("fault", [wrong_bytes, short])
def test_permanently_wrong_bytes_are_refused(place: Place, storage: Storage, pair: Pair, fault: Fault) -> None:
    storage.proxy.on("bytes", itertools.repeat(fault))
    is_noticed_at_once = storage.has_checksums or fault is short
    assert_failed(place.load_pair(*pair), 5, "3 times in a row" if is_noticed_at_once else "MODEL_SHA256")
    place.assert_empty()
    assert place.temporaries() == []


def test_a_wrong_digest_is_refused(place: Place, pair: Pair) -> None:
    assert_failed(place.load_pair(*pair, model_sha256="0" * 64), 5, "0" * 64)
    place.assert_empty()


def test_external_data_is_loaded(place: Place, storage: Storage, pair: Pair) -> None:
    model = with_external_data("parts/weights.bin")
    storage.put("iris/1/parts/weights.bin", b"w" * 4000)
    storage.put(MODEL, model)

    digests = [hashlib.sha256(content).hexdigest() for content in (model, b"w" * 4000)]
    identity = model_identity(digests[0], {"parts/weights.bin": digests[1]})
    run = place.load_pair(model, pair[1], model_sha256=identity)

    assert run.exit_code == 0, run
    receipt = place.assert_holds(model, pair[1])
    assert receipt.identity == identity
    assert [(record.name, record.size) for record in receipt.external_data] == [("parts/weights.bin", 4000)]


def test_a_large_model_is_loaded_in_ranges(place: Place, storage: Storage, large_model: bytes, pair: Pair) -> None:
    storage.put(MODEL, large_model)
    storage.proxy.reset_faults()
    assert place.load_pair(large_model, pair[1]).exit_code == 0
    place.assert_holds(large_model, pair[1])
    asked = [request for request in storage.proxy.requests if request.startswith("bytes") and "bytes=" in request]
    assert len(asked) >= 3 or not storage.has_ranges


def test_a_killed_load_is_resumed(place: Place, storage: Storage, large_model: bytes, pair: Pair) -> None:
    if not storage.has_ranges:
        pytest.skip("the one request has not ended, or all is here")
    storage.put(MODEL, large_model)
    asked = threading.Event()

    def wait(answer: Answer) -> None:
        asked.set()
        answer.proxy.over.wait()

    storage.proxy.reset_faults()
    storage.proxy.on("bytes", iter([Answer.whole, wait]))
    with place.start(download_workers=1, **storage.pins(large_model, pair[1])) as process:
        assert asked.wait(20)
        process.kill()
        process.communicate()
    place.assert_empty()
    storage.proxy.reset_faults()

    run = place.load_pair(large_model, pair[1], download_workers=1)

    assert [event["bytes"] for event in run.named("resume")] == [8 * PIECE_SIZE], run
    assert f"bytes={8 * PIECE_SIZE}-" in next(request for request in storage.proxy.requests if request[:5] == "bytes")
    place.assert_holds(large_model, pair[1])


def test_without_a_checksum_or_a_pin_nothing_is_fetched(place: Place, storage: Storage, pair: Pair) -> None:
    storage.put_without_checksum(MODEL, pair[0])
    storage.proxy.reset_faults()
    run = place.load(label_sha256=storage.pins(*pair).get("label_sha256", ""))
    if storage.always_has_checksums:
        assert run.exit_code == 0, run
        return
    assert_failed(run, 5, storage.place, "has no checksum at its source", "MODEL_SHA256")
    assert not [request for request in storage.proxy.requests if request.startswith("bytes")]
    place.assert_empty()
    assert place.load(**Https.pins(storage, *pair)).exit_code == 0  # type: ignore[arg-type]
    place.assert_holds(*pair)


@pytest.fixture(scope="module", name="signature")
def make_signature(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> bytes:
    """A signature of the small pair, by the key."""
    directory = tmp_path_factory.mktemp("signed") / "1"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(pair[0])
    (directory / "label.json").write_bytes(pair[1])
    return sign(directory, KEY)


def test_a_signature_replaces_checksum_and_pin(
    place: Place, storage: Storage, pair: Pair, signature: bytes, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.pem"
    keys.write_bytes(KEY.public_pem)
    run = place.load(model_signature_key=keys)
    assert_failed(run, 5, "the model must be signed, but its signature cannot be found")

    storage.put_without_checksum(MODEL, pair[0])
    storage.put(MODEL.replace("model.onnx", "model.sig"), signature)
    run = place.load(model_signature_key=keys)
    assert (run.exit_code, run.error) == (0, "")
    receipt = place.assert_holds(*pair)
    assert receipt.signature
    assert receipt.signature.uri == storage.place.replace("model.onnx", "model.sig")

    storage.put_without_checksum(LABELS, make_labels("x", "y", "z"))
    assert_failed(place.load(model_signature_key=keys), 5, "has the sha256", "model.sig lists", "for 'label.json'")
    place.assert_holds(*pair)


SECRET = "a-secret-that-no-one-may-see"  # noqa: S105 (it opens nothing)


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """Return the settings that hold a secret of every kind."""
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"type": "service_account", "private_key": SECRET, "client_email": "me@example.org"}))
    docker = tmp_path / "config.json"
    docker.write_text(json.dumps({"auths": {"registry.example.org": {"username": "me", "password": SECRET}}}))
    return {
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "AWS_SECRET_ACCESS_KEY": f"{SECRET}-key",
        "AWS_SESSION_TOKEN": f"{SECRET}-session",
        "HTTPS_TOKEN": f"{SECRET}-token",
        "HTTP_PROXY": f"http://me:{SECRET}-proxy@127.0.0.1:1",
        "HTTPS_PROXY": f"http://me:{SECRET}-proxy@127.0.0.1:1",
        "NO_PROXY": "127.0.0.1,localhost",
        "DOCKER_CONFIG": str(tmp_path),
        "LOG_LEVEL": "debug",
        "LOAD_TIMEOUT_SECONDS": "5",
    }


@pytest.mark.parametrize(
    ("faults", "settings"),
    [
        ({}, {}),
        ({}, {"dry_run": "true"}),
        ({"metadata": refuse(403)}, {}),
        ({"metadata": refuse(500, Location=f"/?{SECRET}")}, {"load_timeout_seconds": "2"}),
        pytest.param({"bytes": cut}, {"load_timeout_seconds": "2"}, marks=pytest.mark.nightly),
        ({"bytes": refuse(401)}, {}),
        pytest.param({}, {"no_proxy": "elsewhere"}, marks=pytest.mark.nightly),
    ],
)
def test_secrets_are_never_shown(
    place: Place,
    pair: Pair,
    secrets: dict[str, str],
    faults: dict[str, Fault],
    settings: dict[str, Any],
) -> None:
    storage = place.storage
    place.settings |= secrets
    if storage.place.startswith("https://"):
        place.settings["MODEL_URI"] += f"?signature={SECRET}"
    for kind, fault in faults.items():
        storage.proxy.on(kind, itertools.repeat(fault))
    place.termination_log.touch()

    run = place.load_pair(*pair, **settings)

    is_well = not faults and "no_proxy" not in settings
    assert (run.exit_code == 0) is is_well, run.error
    receipt = place.directory / "receipt.json"
    written = receipt.read_text() if receipt.exists() else ""
    for text in (run.output, run.error, place.termination_log.read_text(), written):
        assert SECRET not in text


def test_labels_can_be_in_another_source(place: Place, pair: Pair, tmp_path: Path) -> None:
    labels = tmp_path / "names.json"
    labels.write_bytes(make_labels("a", "b"))
    run = place.load_pair(pair[0], labels.read_bytes(), label_uri=labels)
    assert run.exit_code == 0, run
    place.assert_holds(pair[0], labels.read_bytes())


def test_a_file_that_is_not_a_model_is_refused(place: Place, storage: Storage, pair: Pair) -> None:
    storage.put(MODEL, b"<html>")
    assert_failed(place.load_pair(b"<html>", pair[1]), 5, "not an ONNX model")
    storage.put(MODEL, make_model(10))
