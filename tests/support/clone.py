"""A clean clone of the repository."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
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
    """Copy all files into the directory and commit them, except the model that the README tells readers to add."""
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
    """Return this process's environment without settings and without the variables of the test environment."""
    fields = {*LoaderSettings.__struct_fields__, *ServiceSettings.__struct_fields__}
    left_out = {*_OURS, *(field.upper() for field in fields)}
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**inherited, "PYTHON": f"{sys.base_prefix}/bin/python3", **(extra or {})}


@contextlib.contextmanager
def typed(
    commands: str, directory: Path, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run shell commands on a terminal, and give the shell and the file that its output is copied to.

    Ctrl-C ends them.
    """
    log = directory.parent / "output.log"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", commands],  # noqa: S607
        cwd=directory,
        env=dict(environment),
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    copying = threading.Thread(target=_copy, args=(ours, log))
    copying.start()
    try:
        yield process, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)
        copying.join()
        os.close(ours)


def _copy(terminal: int, log: Path) -> None:
    with log.open("wb", buffering=0) as output, contextlib.suppress(OSError):  # EIO: all processes have closed it
        while read := os.read(terminal, 1 << 16):
            output.write(read)
