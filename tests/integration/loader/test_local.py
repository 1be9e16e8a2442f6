"""`python -m loader` with a local model."""

import json
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.loader.running import Run, run_in_fork
from tests.support.processes import ROOT, interpreter, run_loader


class Place:
    """A pair at the source, and the final paths of a load."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "source"
        self.source.mkdir()
        self.target = directory / "target"
        self.model, self.labels = self.target / "model.onnx", self.target / "label.json"
        self.environment = {
            "USE_LOCAL_MODEL": "true",
            "LOCAL_MODEL_FILEPATH": str(self.source / "model.onnx"),
            "MODEL_FILEPATH": str(self.model),
            "LABEL_FILEPATH": str(self.labels),
        }

    def offer(self, version: str) -> None:
        """Write another pair to the source: the iris model with the version as a metadata property and as a label."""
        entry = b"\x0a\x01v\x12" + bytes([len(version)]) + version.encode()
        # A repeated field of ModelProto, appended.
        content = (ROOT / "models" / "iris_svc.onnx").read_bytes() + b"\x72" + bytes([len(entry)]) + entry
        (self.source / "model.onnx").write_bytes(content)
        (self.source / "label.json").write_text(json.dumps({"0": version, "1": "b", "2": "c"}))

    def published_version(self) -> str | None:
        """Return the version of the pair at the target, or None if there is none; a mixed pair fails the test."""
        if not self.model.exists() and not self.labels.exists():
            return None
        version: str = json.loads(self.labels.read_text())["0"]
        assert self.model.read_bytes().endswith(version.encode())
        return version

    def load(self, *flags: str, module: str = "loader", environment: Mapping[str, str] | None = None) -> Run:
        """Run the loader, or a module that runs it."""
        settings = self.environment if environment is None else environment
        return run_in_fork({**os.environ, **settings}, *flags, module=module)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_copies_the_shipped_model(tmp_path: Path) -> None:
    place = Place(tmp_path)
    del place.environment["LOCAL_MODEL_FILEPATH"]
    run_loader(place.environment)
    assert place.model.read_bytes() == (ROOT / "models" / "iris_svc.onnx").read_bytes()
    assert place.labels.read_bytes() == (ROOT / "models" / "label.json").read_bytes()
    assert stat.S_IMODE(place.model.stat().st_mode) == stat.S_IMODE(place.labels.stat().st_mode) == 0o444


def test_replaces_a_pair(place: Place) -> None:
    for version in ("one", "two", "three"):
        place.offer(version)
        assert place.load().exit_code == 0
        assert place.published_version() == version


def test_labels_can_be_in_another_directory(place: Place, tmp_path: Path) -> None:
    place.labels = tmp_path / "other" / "names.json"
    place.environment["LABEL_FILEPATH"] = str(place.labels)
    for version in ("one", "two"):
        place.offer(version)
        assert place.load().exit_code == 0
        assert place.published_version() == version


def test_directories_can_be_links(place: Place, tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    place.labels = tmp_path / "near" / "below" / "label.json"
    place.environment["LABEL_FILEPATH"] = str(place.labels)
    place.offer("one")
    assert place.load().exit_code == 0
    assert place.published_version() == "one"


def test_keeps_unrelated_files(place: Place) -> None:
    (place.target / ".release-notes").mkdir(parents=True)
    (place.target / ".model-release-notes.md").write_text("mine")
    place.offer("one")
    assert place.load().exit_code == 0
    assert {".release-notes", ".model-release-notes.md"} <= {path.name for path in place.target.iterdir()}


def test_target_below_a_file(place: Place, tmp_path: Path) -> None:
    place.offer("one")
    (tmp_path / "file").touch()
    ended = place.load("--model_filepath", str(tmp_path / "file" / "model.onnx"))
    assert ended.exit_code == 1
    assert ended.reason.startswith(f"cannot create the directory {tmp_path}/file: ")


@pytest.mark.parametrize("before", ["nothing", "a load", "plain files"])
def test_a_load_killed_at_any_change_leaves_a_complete_pair(place: Place, before: str) -> None:
    if before == "plain files":
        place.offer("old")
        place.target.mkdir()
        for final, source in ((place.model, "model.onnx"), (place.labels, "label.json")):
            final.write_bytes((place.source / source).read_bytes())
    elif before == "a load":
        place.offer("old")
        place.load()
    old = place.published_version()
    place.offer("new")
    for killed_at in range(1, 200):
        ended = place.load(str(killed_at), module="tests.integration.loader.killed")
        if ended.exit_code == 0:
            break
        assert ended.exit_code == -9
        assert place.published_version() in (old, "new")
    assert ended.exit_code == 0
    assert killed_at > 3
    assert place.load().exit_code == 0
    assert place.published_version() == "new"
    releases = [path for path in place.target.iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(releases) == 1


def test_a_flag_takes_precedence_over_a_variable(place: Place, tmp_path: Path) -> None:
    place.offer("one")
    place.model = tmp_path / "flagged" / "m.onnx"
    assert place.load("--model_filepath", str(place.model), "--use_local_model").exit_code == 0
    assert place.published_version() == "one"


@pytest.mark.parametrize("flag", ["--dry-run", "--dry_run", "--dry-run=true"])
def test_the_dry_run_flag(place: Place, flag: str) -> None:
    place.offer("one")
    ended = place.load(flag, f"--model-filepath={place.model}")
    assert (ended.exit_code, ended.error) == (0, "")
    assert '"event":"would_load"' in ended.output
    assert not place.target.exists()


@pytest.mark.parametrize(
    ("environment", "finding"),
    [
        ({}, "not set: GCS_BUCKET, GCS_MODEL_BLOB"),
        ({"USE_LOCAL_MODEL": "false", "GCS_BUCKET": ""}, "not set: GCS_BUCKET, GCS_MODEL_BLOB"),
        ({"GCS_BUCKET": "models"}, "not set: GCS_MODEL_BLOB"),
        ({"USE_LOCAL_MODEL": "perhaps"}, "USE_LOCAL_MODEL is 'perhaps'"),
        ({"USE_LOCAL_MODEL": "1", "LABEL_FILEPATH": "/elsewhere/model.onnx"}, "must end in different names"),
    ],
)
def test_names_the_missing_setting_and_exits_with_2(place: Place, environment: dict[str, str], finding: str) -> None:
    ended = place.load(environment=environment)
    assert ended.exit_code == 2
    assert finding in ended.error
    assert ended.error.count("\n") == 1


@pytest.mark.parametrize("name", ["model.onnx", "label.json"])
def test_missing_source_changes_nothing(place: Place, name: str) -> None:
    place.offer("old")
    place.load()
    place.offer("new")
    (place.source / name).unlink()
    ended = place.load("--local_label_filepath", str(place.source / "label.json"))
    assert ended.exit_code == 3
    assert name in ended.error
    assert ended.error.count("\n") == 1
    assert place.published_version() == "old"


def test_help_lists_flags_and_exit_codes() -> None:
    shown = subprocess.run(
        [interpreter("loader"), "-m", "loader", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for expected in (
        "--gcs_bucket",
        "--gcs_model_blob",
        "--model_filepath",
        "--use_local_model",
        "/workdir/model.onnx",
    ):
        assert expected in shown
    assert "exit codes:" in shown
    assert "examples:" in shown
