"""Plain files are published models last, so that a model that is there is complete."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loader.errors import LoadError
from loader.release.directory import DirectoryStaging
from loader.release.staging import staging
from volume.receipt import FileRecord, Receipt


def publish(directory: Path, **contents: str) -> None:
    """Publish files with these contents; the first one is the model, and `__` in a name is a slash."""
    names = [name.replace("__", "/") for name in contents]
    with staging(directory / "model.onnx", directory / "label.json", "key", DirectoryStaging) as staged:
        for name, content in zip(names, contents.values(), strict=True):
            staged.path(name).write_text(content)
        records = [FileRecord(name=name, uri="u", version="1", size=1, sha256="") for name in names]
        receipt = Receipt(
            model=records[0],
            labels=None,
            external_data=tuple(records[1:]),
            started=datetime.now(UTC),
            seconds=0,
            attempts=1,
            loader_version="1",
        )
        staged.publish(receipt)


def files(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts) and path.name != "receipt.json"
    }


ONE = {"m__1__a": "model", "m__1__w": "weights", "config": "1"}
TWO = {"m__2__a.onnx": "newer", "m__2__w": "new weights", "config": "2"}


def test_an_earlier_load_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("of another program")
    publish(tmp_path, **{**ONE, "n__b.onnx": "other"})
    previous = os.umask(0o077)
    publish(tmp_path, **TWO)
    os.umask(previous)
    assert files(tmp_path) == {
        "own": "of another program",
        "m/2/a.onnx": "newer",
        "m/2/w": "new weights",
        "config": "2",
    }
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["m"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m/2").iterdir()} == {0o444}
    assert (tmp_path / "m/2").stat().st_mode & 0o777 == 0o755


def test_a_load_that_is_killed_at_any_step_leaves_no_wrong_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    steps = 0
    for step in range(20):
        directory = tmp_path / str(step)
        publish(directory, **ONE)
        left = step

        def replace(path: Path, target: Path, original: object = Path.replace) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return original(path, target)  # type: ignore[operator,no-any-return]

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            try:
                publish(directory, **TWO)
                break
            except KilledError:
                steps += 1
        found = files(directory)
        assert not found.keys() & {"m/1/a", "m/2/a.onnx"}
        publish(directory, **TWO)
        assert files(directory) == {name.replace("__", "/"): content for name, content in TWO.items()}
    assert steps == 4  # the receipt, two files and the model


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "models"
    outside.mkdir()
    directory.mkdir()
    (directory / "m").symlink_to(outside)
    with pytest.raises(LoadError, match="cannot publish to"):
        publish(directory, **ONE)
    assert list(outside.iterdir()) == []
    assert not files(directory).get("m/1/a")
