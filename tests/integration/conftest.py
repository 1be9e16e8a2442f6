"""Fixtures: a server shared by all tests that do not change it, and a small disk."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import BENTOML_SERVE, IRIS, Server, in_new_interpreter, serving


@pytest.fixture(scope="session")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the iris model, run by `bentoml serve`."""
    with serving(tmp_path_factory.mktemp("iris"), IRIS, command=in_new_interpreter(BENTOML_SERVE)) as server:
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], check=True, capture_output=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)  # noqa: S607
