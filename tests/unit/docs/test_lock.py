"""What uv.lock has for the machines that the images are built for."""

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from tests.support.processes import ROOT

# The base image's Python, and its C library (Debian 13's glibc is 2.41).
PYTHON = (3, 13)
MANYLINUX = range(41, 16, -1)
LOCK = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}


def tags(machine: str) -> set[str]:
    """Return the tags of wheels that a machine's image takes."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in MANYLINUX] + [f"manylinux2014_{machine}"]
    return {
        str(tag)
        for tag in (*cpython_tags(PYTHON, platforms=platforms), *compatible_tags(PYTHON, "cp313", [*platforms, "any"]))
    }


def required(path: str) -> Iterator[tuple[str, str]]:
    """Yield the names and versions of an image's packages."""
    for line in (ROOT / path).read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==([^ ;]+)", line):
            marker = line.partition(";")[2]
            if "python_full_version < '3.13'" not in marker and "python_full_version < '3.12'" not in marker:
                yield match[1], match[2]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("path", ["requirements.txt", "loader/requirements.txt"])
def test_every_package_has_a_wheel(path: str, machine: str) -> None:
    taken = tags(machine)
    missing = []
    for name, _ in required(path):
        wheels = [wheel["url"].rpartition("/")[2] for wheel in LOCK[name].get("wheels", ())]
        if not any(str(tag) in taken for wheel in wheels for tag in parse_wheel_filename(wheel)[3]):
            missing.append(name)
    assert missing == []
