"""Files are published atomically, whatever was at their final paths."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from loader.errors import DeadlineError, IntegrityError, LoadError
from loader.release.staging import staging
from volume.receipt import FileRecord, Receipt


def publish(model: Path, labels: Path, **external: str) -> None:
    """Publish files with these contents; the model contains the number of external data files."""
    contents = {model.name: f"model of {external}", labels.name: f"labels of {external}", **external}
    with staging(model, labels, "key") as staged:
        records = []
        for name, content in contents.items():
            staged.path(name).write_text(content)
            records.append(FileRecord(name=name, uri="u", version="1", size=len(content), sha256=""))
        staged.publish(
            Receipt(
                model=records[0],
                labels=records[1],
                external_data=tuple(records[2:]),
                started=datetime.now(UTC),
                seconds=0,
                attempts=1,
                loader_version="1",
            )
        )


def fail(model: Path, labels: Path, kind: type[LoadError]) -> None:
    """Let a load fail after it has staged half a model."""

    def load() -> None:
        with staging(model, labels, "key") as staged:
            staged.path(model.name).write_text("half")
            raise kind("code", "message")

    with pytest.raises(kind):
        load()


def test_stale_external_data_is_replaced(tmp_path: Path) -> None:
    model, labels = tmp_path / "m.onnx", tmp_path / "l.json"
    publish(model, labels, a="1", b="2")
    publish(model, labels, b="3", c="4")
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {
        "m.onnx", "l.json", "receipt.json", "b", "c",
    }  # fmt: skip
    assert ((tmp_path / "b").read_text(), (tmp_path / "c").read_text()) == ("3", "4")


def test_plain_files_are_replaced_by_links(tmp_path: Path) -> None:
    model, labels = tmp_path / "m.onnx", tmp_path / "l.json"
    model.write_text("old")
    (tmp_path / "a").write_text("old")
    publish(model, labels, a="1")
    assert (tmp_path / "a").read_text() == "1"
    assert model.is_symlink()


def test_a_file_that_replaced_stale_external_data_is_kept(tmp_path: Path) -> None:
    model, labels = tmp_path / "m.onnx", tmp_path / "l.json"
    publish(model, labels, a="1")
    (tmp_path / "a").unlink()
    (tmp_path / "a").write_text("the user's")
    publish(model, labels)
    assert (tmp_path / "a").read_text() == "the user's"


def test_the_label_file_can_move(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    publish(model, tmp_path / "l.json")
    publish(model, tmp_path / "other" / "names.json")
    assert (tmp_path / "other" / "names.json").read_text() == "labels of {}"


def test_staged_files_are_kept_only_if_resumable(tmp_path: Path) -> None:
    paths = tmp_path / "m.onnx", tmp_path / "l.json"
    fail(*paths, DeadlineError)
    with staging(*paths, "key") as staged:
        assert staged.path("m.onnx").read_text() == "half"
        kept = staged.path("m.onnx")
    assert not kept.exists()
    fail(*paths, IntegrityError)
    assert not kept.exists()


def test_files_staged_under_another_key_are_deleted(tmp_path: Path) -> None:
    paths = tmp_path / "m.onnx", tmp_path / "l.json"
    fail(*paths, DeadlineError)
    with staging(*paths, "other"):
        assert not (tmp_path / ".model-partial-key").exists()


def test_a_directory_is_locked_by_one_load(tmp_path: Path) -> None:
    paths = tmp_path / "m.onnx", tmp_path / "l.json"
    with staging(*paths, "key"), pytest.raises(LoadError, match="another loader"), staging(*paths, "key"):
        pass
