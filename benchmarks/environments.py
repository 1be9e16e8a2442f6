"""A virtual environment for each program of a benchmark, created once and kept in the clone."""

import functools
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


@functools.cache
def environment_of(name: str, *requirements: str | Path) -> Path:
    """Return the Python of an environment with these requirements, or with those that a script declares."""
    directory = ROOT / f".venv-bench-{name}"
    wanted = "\n".join(item.read_text() if isinstance(item, Path) else item for item in requirements)
    stamp = directory / "requirements"
    if not stamp.exists() or stamp.read_text() != wanted:
        _uv("venv", "--clear", "--python", sys.executable, str(directory))
        words = [word for item in requirements for word in (("-r", item) if isinstance(item, Path) else (item,))]
        _uv("pip", "install", "--compile-bytecode", "--python", str(directory / "bin" / "python"), *words)
        stamp.write_text(wanted)
    return directory / "bin" / "python"


@functools.cache
def locked_environment(name: str, *options: str, project: Path = ROOT) -> Path:
    """Return the Python of an environment that `uv sync` creates from the project's `uv.lock` with these options."""
    directory = ROOT / f".venv-bench-{name}"
    _uv(
        *("sync", "--frozen", "--compile-bytecode", "--python", sys.executable, "--project", str(project), *options),
        UV_PROJECT_ENVIRONMENT=str(directory),
    )
    return directory / "bin" / "python"


def checkout(commit: str, directory: Path) -> Path:
    """Write the files of a commit to the directory, and return the directory."""
    archive = subprocess.run(["git", "archive", commit], check=True, cwd=ROOT, stdout=subprocess.PIPE)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory


def _uv(*arguments: str | Path, **environment: str) -> None:
    command: list[str | Path] = [ROOT / ".uv" / "bin" / "uv", "--quiet", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **environment})
