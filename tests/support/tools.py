"""Programs that no package of Python brings."""

import os
import shutil

import pytest


def tool(name: str, package: str) -> str:
    """Return the path of a program of Debian's; the test is skipped without it, but fails in CI, which installs it.

    Args:
        name: the program.
        package: Debian's package that has it.
    """
    if found := shutil.which(name):
        return found
    missing = f"there is no {name} here: apt-get install {package}"
    return pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
