"""A journal resumes the download of an earlier run."""

import stat
from pathlib import Path

import msgspec
import pytest
from crc32c import crc32c

from loader.sources.base import ObjectVersion
from loader.transfer.journal import Journal

FOUND = ObjectVersion("gs://b/m", size=5, version="1", checksums={"crc32c": "AAAAAA=="})


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that an earlier run fetched, with its journal next to it."""
    path = tmp_path / "target"
    journal = Journal(tmp_path / "journal", FOUND, path)
    journal.open()
    path.write_bytes(b"model")
    journal.add(0, crc32c(b"model"))
    return path


def test_resumes_a_file_that_was_made_read_only(tmp_path: Path, target: Path) -> None:
    target.chmod(0o444)

    again = Journal(tmp_path / "journal", FOUND, target)
    again.open()

    assert again.missing() == []
    assert target.stat().st_mode & stat.S_IWUSR


def test_starts_again_for_another_version(tmp_path: Path, target: Path) -> None:
    other = Journal(tmp_path / "journal", msgspec.structs.replace(FOUND, version="2"), target)
    other.open()

    assert other.missing() == [0]
