"""Loads of local models: the same checks and receipt as for buckets, without importing Google packages."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.loader.conftest import Pair, make_model, with_external_data
from tests.integration.loader.running import Target, assert_failed
from tests.support.processes import interpreter


@pytest.fixture
def source(tmp_path: Path, pair: Pair) -> Path:
    """A directory with the small pair."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(pair[0])
    (directory / "label.json").write_bytes(pair[1])
    return directory


@pytest.fixture
def target(tmp_path: Path, source: Path) -> Target:
    settings = {"USE_LOCAL_MODEL": "true", "LOCAL_MODEL_FILEPATH": str(source / "model.onnx")}
    return Target(tmp_path / "workdir", settings)


def test_writes_a_receipt_and_does_not_copy_again(target: Target, source: Path, pair: Pair) -> None:
    assert target.load().exit_code == 0
    receipt = target.assert_holds(*pair)
    assert receipt.model.uri == (source / "model.onnx").as_uri()
    assert receipt.model.version.startswith(f"{(source / 'model.onnx').stat().st_mtime_ns}-")

    [event] = target.load().events
    assert event["in_place"] is True

    changed = make_model(100)
    (source / "model.onnx").write_bytes(changed)
    assert target.load().exit_code == 0
    target.assert_holds(changed, pair[1])
    assert target.temporaries() == []


def test_a_file_of_the_same_size_and_time_is_another_file(target: Target, source: Path, pair: Pair) -> None:
    labels = source / "label.json"
    target.load()
    before = labels.stat()
    labels.write_bytes(pair[1].replace(b"setosa", b"SETOSA"))
    os.utime(labels, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert target.load().exit_code == 0
    target.assert_holds(pair[0], pair[1].replace(b"setosa", b"SETOSA"))


def test_invalid_files_are_refused(target: Target, source: Path) -> None:
    assert_failed(target.load(model_sha256="0" * 64), 5, "MODEL_SHA256")
    (source / "model.onnx").write_text("<html>")
    assert_failed(target.load(), 5, "not an ONNX model")
    (source / "model.onnx").unlink()
    assert_failed(target.load(), 3, "model.onnx", "No such file")
    (source / "model.onnx").mkdir()
    assert_failed(target.load(), 3, "model.onnx", "regular file")
    target.assert_empty()


def test_a_dry_run_reads_the_files_and_writes_none(target: Target, source: Path, pair: Pair) -> None:
    [said] = target.load(dry_run="true").events
    assert not target.directory.exists()
    assert (said["sha256"], said["all_known"], said["in_place"]) == (hashlib.sha256(pair[0]).hexdigest(), True, False)
    target.load()
    before = target.snapshot()
    [said] = target.load(dry_run="true").events
    assert said["in_place"] is True
    (source / "model.onnx").write_bytes(with_external_data("weights.bin"))
    assert_failed(target.load(dry_run="true"), 3, "weights.bin")
    (source / "weights.bin").write_bytes(b"w" * 4000)
    [said] = target.load(dry_run="true").events
    assert [planned["in_place"] for planned in said["artifacts"]] == [False, True, False]
    assert target.snapshot() == before


def test_a_dry_run_refuses_invalid_files(target: Target, source: Path) -> None:
    assert_failed(target.load(dry_run="true", model_sha256="0" * 64), 5, "MODEL_SHA256")
    assert_failed(target.load(dry_run="true", label_sha256="0" * 64), 5, "LABEL_SHA256")
    (source / "label.json").write_text("[]")
    assert_failed(target.load(dry_run="true"), 5, "is not a label file")
    (source / "model.onnx").write_text("<html>")
    assert_failed(target.load(dry_run="true", local_label_filepath=source / "model.onnx"), 5)
    (source / "model.onnx").unlink()
    os.mkfifo(source / "model.onnx")
    assert_failed(target.load(dry_run="true"), 3, "regular file")
    assert not target.directory.exists()


@pytest.mark.parametrize("name", ["model.onnx", "label.json"])
def test_endless_files_are_refused(target: Target, source: Path, name: str) -> None:
    path = source / name
    path.unlink()
    os.mkfifo(path)
    assert_failed(target.load(), 3, str(path), "regular file")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert_failed(target.load(), 3, str(path), "regular file")
    path.unlink()
    path.symlink_to(name)
    assert_failed(target.load(), 1, str(path), "symbolic links")
    target.assert_empty()


def test_a_model_is_read_once(target: Target, source: Path) -> None:
    model = make_model(64 << 20)
    (source / "model.onnx").write_bytes(model)
    with target.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"done"' in line:
                break
        read = int(Path(f"/proc/{process.pid}/io").read_text().partition("rchar: ")[2].split()[0])
    assert len(model) < read < 1.5 * len(model)


def test_imports_no_google_package(target: Target) -> None:
    program = """
import sys
from loader.__main__ import main

assert main(["--use_local_model", "--model_filepath", sys.argv[1], "--label_filepath", sys.argv[2]]) == 0
print([name for name in sys.modules if name.startswith(("google", "urllib3", "requests"))], file=sys.stderr)
"""
    command = [interpreter("loader"), "-c", program, str(target.model), str(target.labels)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stderr == "[]\n"
