"""Environments of their own for the programs that are compared, made once and kept in the clone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment_of(name: str, *requirements: str | Path) -> Path:
    """Return the Python of an environment with these requirements; a script stands for those that it declares."""
    directory = ROOT / f".venv-bench-{name}"
    wanted = "\n".join(item.read_text() if isinstance(item, Path) else item for item in requirements)
    stamp = directory / "requirements"
    if not stamp.exists() or stamp.read_text() != wanted:
        _uv("venv", "--clear", "--python", sys.executable, str(directory))
        words = [word for item in requirements for word in (("-r", item) if isinstance(item, Path) else (item,))]
        _uv("pip", "install", "--compile-bytecode", "--python", str(directory / "bin" / "python"), *words)
        stamp.write_text(wanted)
    return directory / "bin" / "python"


def locked_environment(name: str, *options: str) -> Path:
    """Return the Python of an environment that `uv sync` makes of `uv.lock` with these options."""
    directory = ROOT / f".venv-bench-{name}"
    _uv(
        *("sync", "--frozen", "--compile-bytecode", "--python", sys.executable, *options),
        UV_PROJECT_ENVIRONMENT=str(directory),
    )
    return directory / "bin" / "python"


def _uv(*arguments: str | Path, **environment: str) -> None:
    command: list[str | Path] = [ROOT / ".uv" / "bin" / "uv", "--quiet", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **environment})
