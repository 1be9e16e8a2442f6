"""A clean clone: what a newcomer has."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from loader.settings import Settings as LoaderSettings
from model_server.settings import Settings as ServiceSettings
from tests.support.processes import ROOT

_AUTHOR = ("-c", "user.name=newcomer", "-c", "user.email=newcomer@localhost")
_OURS = ("VENV", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "BENTOML_HOME", "UV_PROJECT_ENVIRONMENT")


def files() -> list[str]:
    """Return the path of every file that is, or could be, committed, relative to the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in set(listed.stdout.split("\0")) if (ROOT / name).is_file())


def make_clone(directory: Path) -> Path:
    """Copy all files into the directory, and commit them there; without the model that the README has one put there."""
    for name in files():
        if name.startswith("pets/"):
            continue
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, directory / name)
    for command in (
        ["git", "init", "--quiet"],
        ["git", "add", "--all"],
        ["git", *_AUTHOR, "commit", "--quiet", "-m", "-"],
    ):
        subprocess.run(command, cwd=directory, check=True)
    return directory


def newcomers_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what these tests run in, and without settings."""
    fields = {*LoaderSettings.__struct_fields__, *ServiceSettings.__struct_fields__}
    left_out = {*_OURS, *(field.upper() for field in fields)}
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**inherited, "PYTHON": f"{sys.base_prefix}/bin/python3", **(extra or {})}


@contextlib.contextmanager
def typed(command: str, clone: Path, environment: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a shell command in the clone and give its process and the file that its output goes to; Ctrl-C ends it."""
    log = clone.parent / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", command],  # noqa: S607
            cwd=clone,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)
