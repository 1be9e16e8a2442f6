"""The service's settings."""

import os
from pathlib import Path

import msgspec
import pytest

from model_server.settings import Settings, processors
from tests.support.processes import IRIS
from volume.settings import SettingsError


def test_defaults() -> None:
    settings = Settings.read({**IRIS, "MAX_BODY_BYTES": "", "UNRELATED": "x"})
    assert settings.max_body_bytes == 8 * 1024 * 1024
    assert settings.model_filepath == Path(IRIS["MODEL_FILEPATH"])


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"MAX_BODY_BYTES": "-1"}, "MAX_BODY_BYTES is '-1': expected `int` >= 1"),
        ({"MAX_BODY_BYTES": "8MB"}, "MAX_BODY_BYTES is '8MB': expected `int`"),
        ({"MODEL_FILEPATH": "/none/m"}, "MODEL_FILEPATH is /none/m: No such file or directory (run the loader first"),
        ({"MODEL_FILEPATH": "/dev/null"}, "MODEL_FILEPATH is /dev/null: Not a regular file"),
        ({"LABEL_FILEPATH": "/dev"}, "LABEL_FILEPATH is /dev: Not a regular file"),
        ({"LABEL_FILEPATH": "x" * 300}, "LABEL_FILEPATH is /"),
    ],
)
def test_refuses(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.read({**IRIS, **environment})
    assert str(refusal.value).startswith(sentence)


def test_the_only_onnx_file_of_a_directory_is_the_model(tmp_path: Path) -> None:
    for name in ("iris.onnx", ".hidden.onnx", "iris.onnx.data", "config.pbtxt"):
        (tmp_path / name).touch()
    settings = Settings.read({"MODEL_FILEPATH": str(tmp_path)})
    assert settings.model_file == tmp_path / "iris.onnx"
    assert settings.label_filepath == tmp_path / "label.json"
    labels = {"LABEL_FILEPATH": IRIS["LABEL_FILEPATH"]}
    assert Settings.read({"MODEL_FILEPATH": str(tmp_path), **labels}).label_filepath == Path(IRIS["LABEL_FILEPATH"])
    assert Settings.read(IRIS).model_file == Path(IRIS["MODEL_FILEPATH"])


@pytest.mark.parametrize(
    ("names", "found"), [((), "none"), (("b.onnx", "a.onnx"), "a.onnx and b.onnx")], ids=["none", "several"]
)
def test_refuses_a_directory_without_one_model(tmp_path: Path, names: tuple[str, ...], found: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(SettingsError) as refusal:
        Settings.read({"MODEL_FILEPATH": str(tmp_path)})
    assert str(refusal.value).startswith(
        f"MODEL_FILEPATH is {tmp_path}: Found {found}, expected one .onnx file in this directory"
    )


def test_the_default_paths_are_in_the_volume() -> None:
    defaults = {field.name: str(field.default) for field in msgspec.structs.fields(Settings)}
    assert defaults["model_filepath"] == "/workdir/model.onnx"
    assert defaults["label_filepath"] == "/workdir/label.json"


def test_processors_are_limited_by_the_machine() -> None:
    assert 1 <= processors() <= (os.cpu_count() or 1)


def test_processors_are_limited_by_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.settings.os.sched_getaffinity", lambda _: set(range(64)))
    quotas = {"max 100000": 64, "250000 100000": 3, "50000 100000": 1, "": 64}
    for text, count in quotas.items():
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text: text)
        assert processors() == count
