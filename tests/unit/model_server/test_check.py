"""`check` reports the same as the service about any model."""

import gzip
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from model_server.check import check, examine
from model_server.errors import StartError
from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.classifiers import classifier, save
from tests.support.processes import IRIS, ROOT
from tests.unit.model_server.model.test_hostile_models import weights_at
from tests.unit.model_server.model.test_signature import LABELS, REFUSED, with_names
from volume.settings import SettingsError

ACCEPTED: dict[str, ModelProto] = {
    "a tensor": classifier(),
    "a fixed batch": classifier(batch=4),
    "a ZipMap and a label": classifier(zip_map=True, label_output=True, names=["c", "a", "b"]),
    "integer classes": classifier(zip_map=True, names=[-1, 10, 20]),
    "any length": classifier(row_shape=("height", "width")),
    "an image of booleans": classifier(TensorProto.BOOL, (1, 4, 4)),
    "its own names": with_names(LABELS),
    "a sample": classifier(properties={"data_sample": "[[1, 2, 3, 4]]"}),
}
ALL = (
    ACCEPTED | {kind: made for kind, (made, _) in REFUSED.items()} | {"names in disorder": with_names(["c", "b", "a"])}
)


def verdict_of_the_service(model: Path, labels: Path) -> str | None:
    """Return the error of the service for the files; None if it starts."""
    try:
        Model.load(Settings.read({"MODEL_FILEPATH": str(model), "LABEL_FILEPATH": str(labels)}))
    except (SettingsError, StartError) as error:
        return str(error)
    return None


def verdict(model: Path, labels: Path | None = None) -> str | None:
    """Return the reason that `check` reports for files that cannot be served; None if they can."""
    try:
        assert examine(model, labels)["servable"]
    except (SettingsError, StartError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ALL)
def test_reports_the_same_errors_as_the_service(tmp_path: Path, kind: str) -> None:
    paths = save(ALL[kind], tmp_path, LABELS)
    expected = verdict_of_the_service(*paths)
    assert verdict(*paths) == verdict(paths[0]) == expected
    assert (expected is None) is (kind in ACCEPTED)
    if expected:
        with pytest.raises(StartError) as refusal:
            examine(*paths)
        assert refusal.value.fix


def test_describes_the_model() -> None:
    report = examine(Path(IRIS["MODEL_FILEPATH"]), None)
    assert report["label_file"] == IRIS["LABEL_FILEPATH"]
    assert report["model"]["producer"] == "skl2onnx"
    assert report["inputs"] == [{"name": "data", "type": "float32", "shape": [None, 4]}]
    assert [(output["name"], output["used"]) for output in report["outputs"]] == [
        ("label", False),
        ("probabilities", True),
    ]
    assert report["labels"] == {"0": "setosa", "1": "versicolor", "2": "virginica"}
    assert report["predict_label"] == {"prediction": "setosa"}
    assert [round(probability, 2) for probability in report["predict"]["prediction"]] == [0.97, 0.02, 0.01]
    assert report["own_sample"]
    assert 0 < report["seconds"] < 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"classes": 5}, [f"class {index}" for index in range(5)]),
        ({"zip_map": True, "names": ["red", "blue"], "classes": 2}, ["blue", "red"]),
    ],
    ids=["a tensor", "a ZipMap"],
)
def test_placeholder_labels_can_be_served(tmp_path: Path, options: dict[str, Any], names: list[str]) -> None:
    model, labels = save(classifier(**options), tmp_path, [])
    labels.unlink()
    report = examine(model, None)
    assert report["label_file"] is None
    assert sorted(report["labels"].values()) == names
    labels.write_text(json.dumps(report["labels"]))
    assert verdict_of_the_service(model, labels) is None
    assert examine(model, None)["predict"] == report["predict"]


def a_pickle() -> bytes:
    return pickle.dumps({"coef_": np.zeros(4)})


def a_torch_archive(directory: Path) -> bytes:
    path = directory / "archive"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", a_pickle())
    return path.read_bytes()


def changed(change: Callable[[ModelProto], Any]) -> bytes:
    made = classifier()
    change(made)
    content: bytes = made.SerializeToString()
    return content


FOREIGN = {
    "a pickle": (a_pickle(), "skl2onnx.to_onnx"),
    "a pickle of torch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9", "torch.onnx.export"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "tf2onnx"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3", "--tflite"),
    "a zip archive": (b"PK\x03\x04", "unpack it"),
    "gzip": (gzip.compress(classifier().SerializeToString()), "unpack it"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "an HTML page": (b"<html>Not found</html>", "download the file itself"),
    "XGBoost": (b'{"learner": {}}', "onnxmltools"),
    "an empty file": (b"", "it is empty"),
    "half a file": (classifier().SerializeToString()[:200], "copy it again"),
    "a newer operator set": (
        changed(lambda made: made.opset_import[0].MergeFrom(helper.make_opsetid("", 99))),
        "of ai.onnx or an older one (target_opset)",
    ),
    "a newer IR version": (changed(lambda made: setattr(made, "ir_version", 99)), "set ir_version to"),
    "an unknown operator": (changed(lambda made: setattr(made.graph.node[0], "op_type", "Mine")), "standard operators"),
    "missing weights": (weights_at("weights")[0].SerializeToString(), "put the file with its weights next to it"),
    "weights elsewhere": (
        weights_at("../weights")[0].SerializeToString(),
        "put the files with its weights into its directory",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_suggests_how_to_convert_files_that_are_not_onnx(tmp_path: Path, kind: str) -> None:
    content, change = FOREIGN[kind]
    model, labels = save(classifier(), tmp_path, LABELS)
    model.write_bytes(content)
    with pytest.raises(StartError, match="cannot be loaded as an ONNX model") as refusal:
        examine(model, labels)
    assert change in refusal.value.fix
    assert "/onnxruntime_src/" not in str(refusal.value)
    assert verdict_of_the_service(model, labels) == str(refusal.value)


def test_suggests_how_to_convert_a_torch_archive(tmp_path: Path) -> None:
    model, _ = save(classifier(), tmp_path, LABELS)
    model.write_bytes(a_torch_archive(tmp_path))
    with pytest.raises(StartError, match=r"torch\.onnx\.export"):
        examine(model, None)


def test_never_blocks_on_paths_that_are_not_files(tmp_path: Path) -> None:
    model, labels = save(classifier(), tmp_path, LABELS)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "saved" / "saved_model.pb").mkdir(parents=True)
    assert "Not a regular file" in str(verdict(tmp_path / "pipe", labels))
    assert "Not a regular file" in str(verdict(model, tmp_path / "pipe"))
    assert "--saved-model" in str(verdict(tmp_path / "saved", labels))
    assert "No such file" in str(verdict(tmp_path / "none", labels))
    labels.unlink()
    labels.symlink_to("none")
    assert "LABEL_FILEPATH" in str(verdict(model))
    made, _ = weights_at("pipe")
    model.write_bytes(made.SerializeToString())
    labels.unlink()
    assert "cannot be loaded" in str(verdict(model))


def test_output_fits_on_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"\x1b[2Jclass {index}" for index in range(1000)]
    paths = save(classifier(row_shape=(3, 32, 32), classes=1000), tmp_path, names)
    assert check(*paths, as_json=False, seconds=60) == 0
    shown = capsys.readouterr().out
    assert len(shown) < 5000
    assert "\x1b" not in shown
    assert "the sample is made up" in shown
    assert "| curl -s http://127.0.0.1:3000/predict -H 'content-type: application/json' -d @-\n" in shown
    assert check(*paths, as_json=True, seconds=60) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == {str(index): name for index, name in enumerate(names)}


def test_prints_the_reason_and_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = save(classifier(classes=4), tmp_path, LABELS)
    assert check(*paths, as_json=False, seconds=60) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"Cannot be served. MODEL_FILEPATH: {paths[0]} has 4 classes but LABEL_FILEPATH names 3; expected one name per "
        "class."
    )
    assert second.startswith("Fix: use the label file of this model")
    assert check(*paths, as_json=True, seconds=60) == 1
    assert not json.loads(capsys.readouterr().out)["servable"]
    assert check(tmp_path / "none", None, as_json=False, seconds=60) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_invalid_service_settings_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTRA_OP_NUM_THREADS", "none")
    assert check(ROOT / "models" / "iris_svc.onnx", None, as_json=False, seconds=60) == 1
    assert "INTRA_OP_NUM_THREADS is 'none'" in capsys.readouterr().out
