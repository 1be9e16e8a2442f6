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
        ({"MODEL_FILEPATH": "/tmp"}, "MODEL_FILEPATH is /tmp: Not a regular file"),  # noqa: S108
        ({"LABEL_FILEPATH": "x" * 300}, "LABEL_FILEPATH is /"),
    ],
)
def test_refuses(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.read({**IRIS, **environment})
    assert str(refusal.value).startswith(sentence)


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
