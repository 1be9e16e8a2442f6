"""The name, identity and format of a model file."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_server.errors import StartError
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from tests.support.classifiers import classifier
from tests.unit.model_server.model.test_hostile_models import weights_at
from volume.receipt import FileRecord, Receipt


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("gs://models/iris/1/model.onnx", "iris/1/model.onnx"),
        ("gs://models/what?#%41.onnx", "what?#%41.onnx"),
        ("file:///models/a%20b%25.onnx", "a b%.onnx"),
    ],
)
def test_name_comes_from_the_source(tmp_path: Path, uri: str, name: str) -> None:
    record = FileRecord(name="model.onnx", uri=uri, version="7", size=0, sha256="")
    receipt = Receipt(model=record, labels=record, started=datetime.now(UTC), seconds=0, attempts=1, loader_version="1")
    file = ModelFile(tmp_path / "model.onnx", tmp_path, b"", "", receipt)
    assert (file.name, file.source, file.generation) == (name, uri, "7")


def test_name_without_a_receipt_is_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "ä #?%41.onnx"
    path.write_bytes(b"")
    file = ModelFile.read(path)
    assert (file.name, file.source, file.generation) == (path.name, path.as_uri(), "")


def test_identity_covers_all_files_but_not_their_names(tmp_path: Path) -> None:
    identities = set()
    for directory, name, weights in (
        ("a", "model.onnx", b"w" * 48),
        ("b", "other", b"w" * 48),
        ("c", "other", b"v" * 48),
    ):
        (tmp_path / directory).mkdir()
        made, _ = weights_at("weights")
        (tmp_path / directory / name).write_bytes(made.SerializeToString())
        (tmp_path / directory / "weights").write_bytes(weights)
        file = ModelFile.read(tmp_path / directory / name)
        assert (file.problem, file.onnx and file.onnx.external_data) == ("", ("weights",))
        identities.add(file.identity)
    assert len(identities) == 2


def test_format_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(classifier().SerializeToString())
    assert ModelFile.read(path).format == {"ir_version": "9", "opsets": "17,ai.onnx.ml:3", "producer": ""}


def test_a_receipt_without_an_external_data_file_is_refused(tmp_path: Path) -> None:
    made, weights = weights_at("weights")
    content = made.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    (tmp_path / "weights").write_bytes(weights)
    digest = hashlib.sha256(content).hexdigest()
    record = FileRecord(name="model.onnx", uri="", version="7", size=len(content), sha256=digest)
    receipt = Receipt(model=record, labels=record, started=datetime.now(UTC), seconds=0, attempts=1, loader_version="1")
    (tmp_path / "receipt.json").write_bytes(receipt.encode())
    with pytest.raises(StartError, match="keeps weights in 'weights', which its receipt does not list: load it again"):
        ModelFile.read(tmp_path / "model.onnx")


@pytest.mark.parametrize("problem", ["twice", "a pipe"])
def test_a_model_with_unknown_external_data_is_not_served(tmp_path: Path, problem: str) -> None:
    made = classifier()
    content = made.SerializeToString()
    path = tmp_path / "model.onnx"
    if problem == "twice":
        path.write_bytes(content + b"\x08\x09")  # a second IR version, which ONNX Runtime accepts
        finding = "field 1 of ModelProto occurs twice"
    else:
        made, _ = weights_at("weights")
        path.write_bytes(made.SerializeToString())
        os.mkfifo(tmp_path / "weights")
        finding = "regular file"
    file = ModelFile.read(path)
    assert file.problem
    with pytest.raises(StartError, match=f"cannot be loaded as an ONNX model: .*({finding})"):
        Predictor(file, ["a", "b", "c"], None)
