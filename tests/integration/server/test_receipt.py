"""Loaded files are served with their receipt, and refused if they do not match it."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from model_server.check import examine
from model_server.errors import StartError
from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.classifiers import classifier, expected, save
from tests.support.processes import ONE_PROCESS, events, run_loader, serving, starting
from tests.support.signing import Key, sign
from volume.identity import model_identity
from volume.receipt import Receipt

LABELS = ["a", "b", "c"]
FILES = ["model.onnx", "weights.bin"]
ROWS = [[1, 2, 3, 4], [0, 1, 0, 1]]


def load(source: Path, volume: Path, **settings: str) -> dict[str, str]:
    """Run the loader on the model and labels in the source directory; return the variables to serve them with."""
    environment = {"MODEL_FILEPATH": str(volume / "model.onnx"), "LABEL_FILEPATH": str(volume / "label.json")}
    run_loader(
        {**environment, "USE_LOCAL_MODEL": "true", "LOCAL_MODEL_FILEPATH": str(source / "model.onnx"), **settings}
    )
    return environment


def offer(source: Path, *, external_data: bool) -> None:
    source.mkdir()
    model_path, _ = save(classifier(), source, LABELS)
    if external_data:
        onnx.save(
            onnx.load(model_path), model_path, save_as_external_data=True, location="weights.bin", size_threshold=60
        )


@pytest.mark.parametrize("external_data", [False, True])
def test_identity_comes_from_the_receipt(tmp_path: Path, external_data: bool) -> None:  # noqa: FBT001
    offer(tmp_path / "source", external_data=external_data)
    environment = load(tmp_path / "source", tmp_path / "volume")
    receipt = Receipt.read(tmp_path / "volume")
    assert receipt
    assert [weights.name for weights in receipt.external_data] == ["weights.bin"] * external_data
    assert (receipt.identity == receipt.model.sha256) is not external_data
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(ROWS), expected(np.array(ROWS)), atol=1e-6)
        metadata = server.client.get("/metadata")
        assert metadata.headers["etag"] == f'"{receipt.identity}"'
        again = server.client.get("/metadata", headers={"if-none-match": metadata.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        [info] = re.findall(r"^model_info\{(.*)\} 1.0$", server.client.get("/metrics").text, re.MULTILINE)
        assert dict(re.findall(r'(\w+)="([^"]*)"', info)) == {
            "sha256": receipt.identity,
            "source": (tmp_path / "source" / "model.onnx").as_uri(),
            "generation": receipt.model.version,
            "ir_version": "9",
            "opsets": "17,ai.onnx.ml:3",
            "producer": "",
            "signed_by": "",
        }


def test_the_signer_is_shown_everywhere(tmp_path: Path) -> None:
    source, key = tmp_path / "source", Key()
    offer(source, external_data=True)
    sign(source, key)
    (tmp_path / "keys.pem").write_bytes(key.public_pem)
    environment = load(source, tmp_path / "volume", MODEL_SIGNATURE_KEY=str(tmp_path / "keys.pem"))
    hint = hashlib.sha256(key.public_pem).hexdigest()
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        assert f'signed_by="{hint}"' in server.client.get("/metrics").text
        assert f'"signed_by":"{hint}"' in server.client.get("/").text
        [serving_line] = [event for event in events(server.log) if event["event"] == "serving"]
        assert serving_line["signed_by"] == hint
        assert serving_line["model"] == serving_line["sha256"] == server.client.get("/metadata").headers["etag"][1:-1]
    assert examine(tmp_path / "volume" / "model.onnx", None)["model"]["receipt"]["signed_by"] == hint


def test_external_data_needs_no_receipt(tmp_path: Path) -> None:
    offer(tmp_path / "source", external_data=True)
    environment = {
        "MODEL_FILEPATH": str(tmp_path / "source" / "model.onnx"),
        "LABEL_FILEPATH": str(tmp_path / "source" / "label.json"),
    }
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(ROWS), expected(np.array(ROWS)), atol=1e-6)
        digests = [hashlib.sha256((tmp_path / "source" / name).read_bytes()).hexdigest() for name in FILES]
        assert (
            server.client.get("/metadata").headers["etag"] == f'"{model_identity(digests[0], {FILES[1]: digests[1]})}"'
        )


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("model.onnx", r"MODEL_FILEPATH: .*/model\.onnx has the sha256 \w+, but its receipt says \w+"),
        ("label.json", r"LABEL_FILEPATH: .*/label\.json has the sha256 \w+, but its receipt says \w+"),
        ("weights.bin", r"MODEL_FILEPATH: .*/weights\.bin has the sha256 \w+, but its receipt says \w+"),
        ("receipt.json", r"MODEL_FILEPATH: .*receipt\.json is not a receipt"),
    ],
)
def test_files_that_do_not_match_the_receipt_are_refused(tmp_path: Path, name: str, finding: str) -> None:
    offer(tmp_path / "source", external_data=True)
    environment = load(tmp_path / "source", tmp_path / "volume")
    path = (tmp_path / "volume" / name).resolve()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.chmod(0o644)
    path.write_bytes(b"{}" if name == "receipt.json" else content)
    with pytest.raises(StartError, match=finding):
        Model.load(Settings.read(environment))


def test_files_from_two_loads_are_refused(tmp_path: Path) -> None:
    offer(tmp_path / "source", external_data=False)
    environment = load(tmp_path / "source", tmp_path / "volume")
    other = tmp_path / "label.json"
    other.write_text(json.dumps({"0": "x", "1": "y", "2": "z"}))
    with starting(tmp_path, {**environment, "LABEL_FILEPATH": str(other)}, command=ONE_PROCESS) as (process, log):
        assert process.wait(timeout=60) == 1
    assert f"LABEL_FILEPATH: {other} has the sha256" in log.read_text()
