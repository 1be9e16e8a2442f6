"""The environments of the loader and the service have exactly the packages of their images, and coverage."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.processes import ROOT, interpreter

PACKAGES = """
import json
from importlib.metadata import distributions

print(json.dumps({package.name: package.version for package in distributions()}))
"""


@pytest.mark.parametrize(
    ("program", "requirements"), [("loader", "loader/requirements.txt"), ("service", "requirements.txt")]
)
def test_has_the_packages_of_the_image_and_coverage(program: Literal["loader", "service"], requirements: str) -> None:
    listed = subprocess.run([interpreter(program), "-I", "-c", PACKAGES], capture_output=True, text=True, check=True)
    installed = {canonicalize_name(name): version for name, version in json.loads(listed.stdout).items()}
    assert installed == {**required(ROOT / requirements), "coverage": version("coverage")}


def required(path: Path) -> dict[str, str]:
    """Return the packages in a requirements file that this platform needs, with their versions."""
    lines = path.read_text().replace("\\\n", "").splitlines()
    requirements = [Requirement(line.partition(" --hash")[0]) for line in lines]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate()
    }
