"""The files in .github, checked against GitHub's schemas and the project."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.support.processes import ROOT
from tests.support.tools import MAKE_TARGETS

GITHUB = ROOT / ".github"
SCHEMAS = {
    "workflows/ci.yml": "github-workflows",
    "dependabot.yml": "dependabot",
    "ISSUE_TEMPLATE/bug_report.yml": "github-issue-forms",
}
JOBS = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())["jobs"]


def test_every_file_has_a_schema() -> None:
    assert {str(path.relative_to(GITHUB)) for path in GITHUB.rglob("*.yml")} == SCHEMAS.keys()


@pytest.mark.parametrize(("file", "schema"), SCHEMAS.items())
def test_schema(file: str, schema: str) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", GITHUB / file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_workflow_runs_the_make_targets() -> None:
    commands = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    targets = {target for command in commands for target in re.findall(r"\bmake ([a-z0-9-]+)", command)}
    assert {"lint", "test"} <= targets <= MAKE_TARGETS


def test_workflow_tests_every_supported_python() -> None:
    versions = JOBS["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f">={versions[0]}" == project["requires-python"]
    image = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["docker"]["python_version"]
    assert versions[-1] == image
    assert [int(version.removeprefix("3.")) for version in versions] == [11, 12, 13]


def test_actions_are_pinned() -> None:
    for job in JOBS.values():
        for step in job["steps"]:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step.get("uses", "a@" + "0" * 40))
