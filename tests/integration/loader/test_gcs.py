"""Loads from fake-gcs-server, with objects uploaded by the official client."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.cloud import storage

from tests.integration.loader.conftest import BUCKET, LABELS, MODEL, Pair, make_labels, make_model, with_external_data
from tests.integration.loader.running import UNREACHABLE, Target, assert_failed
from tests.support.fake_gcs import fake_gcs_server, storage_client


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with fake_gcs_server(tmp_path_factory.mktemp("buckets")) as url:
        yield url


@pytest.fixture(scope="module")
def client(emulator: str) -> storage.Client:
    return storage_client(emulator)


@pytest.fixture
def bucket(client: storage.Client, pair: Pair, request: pytest.FixtureRequest) -> storage.Bucket:
    """A bucket for one test, with a small model and its labels."""
    bucket = client.create_bucket(f"{BUCKET}-{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}")
    upload(bucket, MODEL, pair[0])
    upload(bucket, LABELS, pair[1])
    return bucket


@pytest.fixture
def target(tmp_path: Path, emulator: str, bucket: storage.Bucket) -> Target:
    settings = {"GCS_BUCKET": bucket.name, "GCS_MODEL_BLOB": MODEL, "STORAGE_EMULATOR_HOST": emulator}
    return Target(tmp_path / "workdir", settings)


def upload(bucket: storage.Bucket, name: str, content: bytes) -> int:
    """Upload the content and return the object's generation."""
    blob = bucket.blob(name)
    blob.upload_from_string(content)
    return int(blob.generation)


def test_loads_the_pair_and_writes_a_receipt(target: Target, bucket: storage.Bucket, pair: Pair) -> None:
    run = target.load()

    assert (run.exit_code, run.error) == (0, "")
    receipt = target.assert_holds(*pair)
    blob = bucket.get_blob(MODEL)
    assert receipt.model.uri == f"gs://{bucket.name}/{MODEL}"
    assert receipt.labels is not None
    assert receipt.labels.uri == f"gs://{bucket.name}/{LABELS}"
    assert (receipt.model.version, receipt.model.checksums) == (str(blob.generation), {"crc32c": blob.crc32c})
    assert (receipt.attempts, receipt.external_data) == (1, ())
    assert [event["event"] for event in run.events] == ["start", "start", "done"]
    assert {path.stat().st_mode & 0o777 for path in (target.model, target.labels)} == {0o444}
    assert target.temporaries() == []


def test_the_emulator_needs_no_scheme(target: Target, emulator: str) -> None:
    assert target.load(storage_emulator_host=emulator.removeprefix("http://")).exit_code == 0


def test_the_label_file_can_have_another_name_and_directory(
    target: Target, bucket: storage.Bucket, pair: Pair, tmp_path: Path
) -> None:
    upload(bucket, "elsewhere/names.json", make_labels("a", "b"))
    final = tmp_path / "labels" / "names.json"

    run = target.load(gcs_label_blob="elsewhere/names.json", label_filepath=final)

    assert run.exit_code == 0
    assert (target.model.read_bytes(), final.read_bytes()) == (pair[0], make_labels("a", "b"))


def test_a_model_without_a_prefix_has_its_labels_there(target: Target, bucket: storage.Bucket, pair: Pair) -> None:
    upload(bucket, "model.onnx", pair[0])
    upload(bucket, "label.json", pair[1])
    assert target.load(gcs_model_blob="model.onnx").exit_code == 0
    target.assert_holds(*pair)


def test_published_files_are_not_fetched_again(target: Target, pair: Pair) -> None:
    target.load()
    before = target.model.stat().st_ino

    run = target.load()

    [event] = run.events
    assert (event["event"], event["in_place"]) == ("done", True)
    assert target.model.stat().st_ino == before
    target.assert_holds(*pair)
    assert target.temporaries() == []


def test_only_changed_files_are_fetched(target: Target, bucket: storage.Bucket, pair: Pair) -> None:
    target.load()
    changed = make_labels("x", "y", "z")
    upload(bucket, LABELS, changed)

    run = target.load()

    assert [event["uri"] for event in run.named("start")] == [f"gs://{bucket.name}/{LABELS}"]
    target.assert_holds(pair[0], changed)
    assert target.temporaries() == []


def test_a_damaged_file_is_fetched_again(target: Target, pair: Pair) -> None:
    target.load()
    target.model.chmod(0o644)
    target.model.write_bytes(pair[0][:-1] + b"!")

    assert target.load().exit_code == 0
    target.assert_holds(*pair)


def test_a_pinned_generation_is_loaded(target: Target, bucket: storage.Bucket, pair: Pair) -> None:
    generation = int(bucket.get_blob(MODEL).generation)
    run = target.load(gcs_model_generation=generation)
    assert run.exit_code == 0
    assert target.assert_holds(*pair).model.version == str(generation)

    upload(bucket, MODEL, make_model(10))
    run = target.load(gcs_model_generation=generation)
    assert_failed(run, 3, MODEL, str(generation))
    target.assert_holds(*pair)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("gcs_bucket", "no-such-bucket"), ("gcs_model_blob", "no/such/model.onnx"), ("gcs_label_blob", "nothing.json")],
)
def test_a_missing_object_is_named(target: Target, setting: str, value: str) -> None:
    run = target.load(**{setting: value})
    assert_failed(run, 3, value, "404")
    target.assert_empty()


def test_pinned_checksums_must_match(target: Target, pair: Pair) -> None:
    right = {
        "model_sha256": hashlib.sha256(pair[0]).hexdigest().upper(),
        "label_sha256": hashlib.sha256(pair[1]).hexdigest(),
    }
    for name in right:
        run = target.load(**{**right, name: "0" * 64})
        assert_failed(run, 5, name.upper(), "0" * 64)
        target.assert_empty()
    assert target.load(**right).exit_code == 0


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Sign in</html>", b"", b"\x08\x07", b"{}"])
def test_a_file_that_is_not_a_model_is_not_published(target: Target, bucket: storage.Bucket, content: bytes) -> None:
    upload(bucket, MODEL, content)
    assert_failed(target.load(), 5, MODEL, "not an ONNX model")
    target.assert_empty()


@pytest.mark.parametrize("content", [b"<html>", b"", b"[]", b'{"0": 1}', b"\xff", b" " * (5 << 20)])
def test_a_file_that_is_not_a_label_file_is_not_published(
    target: Target, bucket: storage.Bucket, content: bytes
) -> None:
    upload(bucket, LABELS, content)
    assert_failed(target.load(), 5, LABELS, "is not a label file")
    target.assert_empty()


@pytest.mark.parametrize("location", ["weights.bin", "parts/1/weights.bin"])
def test_external_data_is_loaded(target: Target, bucket: storage.Bucket, pair: Pair, location: str) -> None:
    model = with_external_data(location)
    upload(bucket, MODEL, model)
    upload(bucket, f"iris/1/{location}", b"w" * 4000)

    assert target.load().exit_code == 0

    receipt = target.assert_holds(model, pair[1])
    [record] = receipt.external_data
    assert (record.name, record.size) == (location, 4000)
    assert (target.directory / location).read_bytes() == b"w" * 4000
    assert target.temporaries() == []

    upload(bucket, MODEL, make_model(10))
    assert target.load().exit_code == 0
    assert not (target.directory / location).is_symlink()


def test_missing_external_data_is_named(target: Target, bucket: storage.Bucket) -> None:
    upload(bucket, MODEL, with_external_data("weights.bin"))
    assert_failed(target.load(), 3, "iris/1/weights.bin")
    target.assert_empty()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "..\\b", "", ".current", "label.json"])
def test_external_data_must_be_in_the_models_directory(target: Target, bucket: storage.Bucket, location: str) -> None:
    upload(bucket, MODEL, with_external_data(location))
    assert_failed(target.load(), 5, repr(location).strip("'"))
    target.assert_empty()


def test_a_dry_run_reports_the_load(target: Target, bucket: storage.Bucket, pair: Pair) -> None:
    run = target.load(dry_run="true")
    assert (run.exit_code, run.error) == (0, "")
    assert not target.directory.exists()
    [said] = run.events
    assert (said["event"], said["files"], said["bytes"]) == ("would_load", 2, len(pair[0]) + len(pair[1]))
    assert (said["in_place"], said["all_known"], said["credentials"]) == (False, False, "none")

    assert target.load().exit_code == 0
    receipt = target.assert_holds(*pair)
    for planned, record, path in zip(
        said["artifacts"], (receipt.model, receipt.labels), (target.model, target.labels), strict=True
    ):
        for field in ("uri", "version", "size", "checksums"):
            assert planned[field] == getattr(record, field)
        assert (planned["sha256"], planned["target"], planned["in_place"]) == (None, str(path), False)

    before = target.snapshot()
    [said] = target.load(dry_run="true").events
    assert (said["in_place"], said["all_known"], said["sha256"]) == (True, True, receipt.model.sha256)
    upload(bucket, LABELS, make_labels("x", "y", "z"))
    [said] = target.load(dry_run="true").events
    assert said["in_place"] is False
    assert [planned["in_place"] for planned in said["artifacts"]] == [True, False]
    target.model.chmod(0o644)
    target.model.write_bytes(pair[0][:-1] + b"!")
    [said] = target.load(dry_run="true").events
    assert [planned["in_place"] for planned in said["artifacts"]] == [False, False]
    assert before.keys() == target.snapshot().keys()


def test_a_dry_run_includes_external_data_of_a_published_model(target: Target, bucket: storage.Bucket) -> None:
    upload(bucket, MODEL, with_external_data("weights.bin"))
    upload(bucket, "iris/1/weights.bin", b"w" * 4000)
    [said] = target.load(dry_run="true").events
    assert (said["files"], said["all_known"]) == (2, False)
    assert target.load().exit_code == 0
    before = target.snapshot()
    [said] = target.load(dry_run="true").events
    assert (said["files"], said["all_known"], said["in_place"]) == (3, True, True)
    upload(bucket, "iris/1/weights.bin", b"v" * 5000)
    [said] = target.load(dry_run="true").events
    assert [planned["in_place"] for planned in said["artifacts"]] == [True, True, False]
    assert said["artifacts"][2]["target"] == str(target.directory / "weights.bin")
    bucket.blob("iris/1/weights.bin").delete()
    assert_failed(target.load(dry_run="true"), 3, "weights.bin")
    assert before == target.snapshot()


@pytest.mark.parametrize(
    ("setting", "value", "exit_code"),
    [
        ("gcs_bucket", "no-such-bucket", 3),
        ("gcs_model_blob", "no/such/model.onnx", 3),
        ("gcs_label_blob", "nothing.json", 3),
        ("gcs_model_generation", "1", 3),
        ("gcs_bucket", "", 2),
        ("model_filepath", "/dev/null/model.onnx", 1),
    ],
)
def test_a_dry_run_ends_like_the_load(target: Target, setting: str, value: str, exit_code: int) -> None:
    assert target.load(dry_run="true", **{setting: value}).exit_code == exit_code
    assert not target.directory.exists()
    assert target.load(**{setting: value}).exit_code == exit_code


def test_a_dry_run_refuses_labels_that_are_too_large(target: Target, bucket: storage.Bucket) -> None:
    upload(bucket, LABELS, b" " * (5 << 20))
    assert_failed(target.load(dry_run="true"), 5, LABELS, "is not a label file")


def test_a_dry_run_has_a_deadline(target: Target) -> None:
    run = target.load(dry_run="true", storage_emulator_host="127.0.0.1:1", load_timeout_seconds=4)
    assert_failed(run, UNREACHABLE, "127.0.0.1:1")
