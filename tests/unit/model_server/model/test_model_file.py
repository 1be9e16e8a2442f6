"""What a model's file says of where it came from."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_server.model.model_file import ModelFile
from volume.receipt import FileRecord, Receipt


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("gs://models/iris/1/model.onnx", "iris/1/model.onnx"),
        ("gs://models/what?#%41.onnx", "what?#%41.onnx"),
        ("file:///models/a%20b%25.onnx", "a b%.onnx"),
    ],
)
def test_a_model_is_called_as_its_source_calls_it(tmp_path: Path, uri: str, name: str) -> None:
    record = FileRecord(name="model.onnx", uri=uri, version="7", size=0, sha256="")
    receipt = Receipt(model=record, labels=record, started=datetime.now(UTC), seconds=0, attempts=1, loader_version="1")
    file = ModelFile(tmp_path / "model.onnx", tmp_path, b"", "", receipt)
    assert (file.name, file.source, file.generation) == (name, uri, "7")


def test_a_model_that_no_loader_brought_is_called_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "ä #?%41.onnx"
    path.write_bytes(b"")
    file = ModelFile.read(path)
    assert (file.name, file.source, file.generation) == (path.name, path.as_uri(), "")
