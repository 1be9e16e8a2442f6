"""Hostile files in the volume: the loader does not follow links, wait for pipes or write to either."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.integration.loader.conftest import BUCKET, MODEL, Pair
from tests.integration.loader.fault_server import FaultServer, StoredObject
from tests.integration.loader.running import Target, assert_failed

STAGED = f".model-partial-{hashlib.sha256(f'gs://{BUCKET}/{MODEL}#1'.encode()).hexdigest()[:16]}"
PATHS = [
    "model.onnx",
    "label.json",
    "receipt.json",
    *(f"{STAGED}/{name}" for name in ("files/model.onnx", "journals/model.onnx", "journals/model.onnx~")),
]


def place(target: Target, name: str) -> Path:
    path = target.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("name", PATHS)
def test_pipes(target: Target, pair: Pair, name: str) -> None:
    os.mkfifo(place(target, name))
    assert target.load().exit_code == 0
    target.assert_holds(*pair)


@pytest.mark.parametrize("name", PATHS)
def test_links_to_elsewhere(target: Target, pair: Pair, name: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    place(target, name).symlink_to(elsewhere)
    assert target.load().exit_code == 0
    target.assert_holds(*pair)
    assert elsewhere.read_text() == "mine"


@pytest.mark.parametrize("name", [".current", "model.onnx", "receipt.json", ".model-link-model.onnx"])
def test_directories_are_named(target: Target, name: str) -> None:
    (place(target, name) / "of others").mkdir(parents=True)
    assert_failed(target.load(), (1, 4), str(target.directory), "directory")
    assert (target.directory / name / "of others").is_dir()


def test_a_blob_above_the_bucket(target: Target, server: FaultServer, pair: Pair) -> None:
    """Object names are not used as paths: the loader writes only to MODEL_FILEPATH and LABEL_FILEPATH."""
    model = "../../../iris/model.onnx"
    server.objects |= {model: StoredObject(pair[0]), "../../../iris/label.json": StoredObject(pair[1])}
    before = set(target.directory.parent.iterdir())
    assert target.load(gcs_model_blob=model).exit_code == 0
    target.assert_holds(*pair)
    assert set(target.directory.parent.iterdir()) == before
