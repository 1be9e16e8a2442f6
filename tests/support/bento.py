"""Building this repository's bento into a separate store."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import ROOT, service_environment


def build(home: Path, **docker: Any) -> Path:
    """Build the bento with changed `docker` options, and return its directory.

    Args:
        home: a BentoML home without bentos.
        docker: the options that differ from those in `bentofile.yaml`.
    """
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    bentofile["docker"] |= docker
    (home / "bentofile.yaml").write_text(yaml.safe_dump(bentofile))
    _bentoml(home, ROOT, "build", "--bentofile", str(home / "bentofile.yaml"))
    [description] = (home / "bentos" / "model_load_server").glob("*/bento.yaml")
    return description.parent


def containerize(home: Path, image: str) -> None:
    """Build the image of the bento in this BentoML home, with podman."""
    _bentoml(home, home, "containerize", "model_load_server:latest", "--backend", "podman", "--image-tag", image)


def _bentoml(home: Path, directory: Path, *arguments: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bentoml", *arguments],
        cwd=directory,
        # BentoML copies the template to TMPDIR, and refuses it if that is not below the working directory.
        env=service_environment(home, {"TMPDIR": str(home)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
