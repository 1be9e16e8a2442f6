"""Programs that are not Python packages, and the targets of the Makefile."""

import os
import re
import shutil

import pytest

from tests.support.processes import ROOT

MAKE_TARGETS = {*re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)}


def tool(name: str, package: str) -> str:
    """Return the path of a program from Debian. Without it, the test is skipped, or fails in CI, where it is installed.

    Args:
        name: name of the program.
        package: Debian package that contains it.
    """
    if found := shutil.which(name):
        return found
    missing = f"{name} is missing: apt-get install {package}"
    return pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
