"""Checks of files before they are published."""

from pathlib import Path

import pytest

from loader.errors import IntegrityError
from loader.verification.files import check_labels, check_labels_size, check_names, check_sha256, read_model
from model_server.errors import StartError
from model_server.model.labels import load_labels
from volume.receipt import FileRecord


def test_the_sha256_must_be_the_expected_one() -> None:
    record = FileRecord(name="m", uri="gs://b/m", version="1", size=1, sha256="ab" * 32)
    check_sha256(record, "", "MODEL_SHA256")
    check_sha256(record, "AB" * 32, "MODEL_SHA256")
    with pytest.raises(IntegrityError, match=r"gs://b/m has the sha256 abab.*but MODEL_SHA256 is cd"):
        check_sha256(record, "cd" * 32, "MODEL_SHA256")


def test_labels_are_small_and_a_json_object_of_names(tmp_path: Path) -> None:
    path = tmp_path / "label.json"
    path.write_text('{"0": "setosa"}')
    check_labels(path, "gs://b/l")
    check_labels_size("gs://b/l", 4 << 20)
    with pytest.raises(IntegrityError, match="gs://b/l is not a label file"):
        check_labels_size("gs://b/l", (4 << 20) + 1)
    path.write_text('["setosa"]')
    with pytest.raises(IntegrityError, match="gs://b/l is not a label file"):
        check_labels(path, "gs://b/l")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"0": "a", "0": "b"}',
        b'{"1": "a"}',
        b'{"0": "a", "2": "b"}',
        b'{"00": "a"}',
        b'{"0": ""}',
        b'{"0": 1}',
        b'{"0": "\\ud800"}',
        b'{"0": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_labels_that_the_service_refuses_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "label.json"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="gs://b/l is not a label file"):
        check_labels(path, "gs://b/l")
    with pytest.raises(StartError):
        load_labels(path)


def test_a_file_that_is_not_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("<html>")
    with pytest.raises(IntegrityError, match="gs://b/m is not an ONNX model"):
        read_model(tmp_path / "m", "gs://b/m")


@pytest.mark.parametrize("name", ["m.onnx", "l.json", "receipt.json"])
def test_external_data_cannot_have_the_name_of_another_file(name: str) -> None:
    with pytest.raises(IntegrityError, match=name):
        check_names("m.onnx", "l.json", [name])
    check_names("m.onnx", "l.json", ["w"])


@pytest.mark.parametrize("names", [["w/x", "w-1", "w"], ["w", "w/x/y"], ["receipt.json/x"], ["m.onnx/x"], ["l.json/x"]])
def test_a_file_cannot_be_the_directory_of_another(names: list[str]) -> None:
    with pytest.raises(IntegrityError, match="cannot be a directory too"):
        check_names("m.onnx", "l.json", names)
    check_names("m.onnx", "l.json", ["w/x", "w/y", "w-1", "m.onnx.data"])
