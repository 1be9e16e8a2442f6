"""What is in the images, and what is not."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BASE_IMAGE
from tests.e2e.podman import podman
from tests.support.manifests import one, render
from tests.support.processes import ROOT

MB = 1000**2
TOOLS = ("pip", "uv", "git", "gcc", "cc", "make", "curl")


@pytest.fixture(scope="module", params=["loader", "server"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The name of a container, and of the image that the manifests give it."""
    spec = one(render("local", tmp_path_factory.mktemp("local"), {}), "Deployment")["spec"]["template"]["spec"]
    [container] = spec["initContainers" if request.param == "loader" else "containers"]
    return request.param, container["image"]


def inspected(image: str) -> Any:
    [found] = json.loads(podman("image", "inspect", image))
    return found


def test_size(image: tuple[str, str]) -> None:
    name, reference = image
    above_base = inspected(reference)["Size"] - inspected(BASE_IMAGE)["Size"]
    assert above_base <= {"loader": 260 - 184, "server": 450 - 184}[name] * MB


def test_user_is_a_number_and_entry_point_no_shell(image: tuple[str, str]) -> None:
    config = inspected(image[1])["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"][0] == "python"


def test_labels(image: tuple[str, str]) -> None:
    prefix = "org.opencontainers.image."
    labels = inspected(image[1])["Config"]["Labels"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert labels[f"{prefix}title"] == f"model-load-{image[0]}"
    assert labels[f"{prefix}version"] == version
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    assert labels[f"{prefix}revision"] == head.stdout.strip()
    assert labels[f"{prefix}licenses"] == "Apache-2.0"


def test_has_only_what_it_runs(image: tuple[str, str]) -> None:
    name, reference = image
    files = [Path(line) for line in _run(reference, "find", "/app", "-type", "f").splitlines()]
    assert not [file for file in files if file.name in TOOLS]
    own = {str(file.relative_to("/app")) for file in files if ".venv" not in file.parts and file.suffix != ".pyc"}
    models = {"models/iris_svc.onnx", "models/label.json"}
    assert models & own == (models if name == "loader" else set())
    kinds = {".py", ".onnx", ".json"} if name == "loader" else {".html", ".py", ".yaml"}
    assert {Path(file).suffix for file in own} == kinds


def _run(image: str, command: str, *arguments: str) -> str:
    return podman("run", "--rm", "--entrypoint", command, image, *arguments)
