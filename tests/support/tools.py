"""Programs that are not in any Python package."""

import os
import shutil

import pytest


def tool(name: str, package: str) -> str:
    """Return the path of a program; without it, the test is skipped, or fails in CI, which installs it.

    Args:
        name: the name of the program.
        package: the Debian package that contains it.
    """
    if found := shutil.which(name):
        return found
    missing = f"{name} is not installed: apt-get install {package}"
    return pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
