"""The content of the images."""

import json
import secrets
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BASE_IMAGE
from tests.e2e.podman import answers, podman, running
from tests.support.bento import build, containerize
from tests.support.manifests import one, render
from tests.support.processes import ROOT, free_port, until

MB = 1000**2
TOOLS = ("pip", "uv", "git", "gcc", "cc", "make", "curl")
START_SECONDS = 60
OPTIONS: dict[str, Any] = {
    "system_packages": ["tini"],
    "env": {"PRICE": """it's "5 $" a cup""", "BENTOML_HOME": "/tmp/elsewhere"},  # noqa: S108 (in the image)
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The images in the manifests, by container."""
    spec = one(render("local", tmp_path_factory.mktemp("local"), {}), "Deployment")["spec"]["template"]["spec"]
    [loader], [server] = spec["initContainers"], spec["containers"]
    return {"loader": loader["image"], "server": server["image"]}


@pytest.fixture(scope="module", params=["loader", "server"])
def image(request: pytest.FixtureRequest, images: dict[str, str]) -> tuple[str, str]:
    """The names of a container and of its image."""
    return request.param, images[request.param]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's image, built from our bentofile with other `docker` options."""
    home = tmp_path_factory.mktemp("variant")
    name = f"e2e-{secrets.token_hex(4)}:variant"
    build(home, **OPTIONS)
    containerize(home, name)
    yield name
    podman("rmi", name)


def inspected(image: str) -> Any:
    [found] = json.loads(podman("image", "inspect", image))
    return found


def test_size(image: tuple[str, str]) -> None:
    name, reference = image
    above_base = inspected(reference)["Size"] - inspected(BASE_IMAGE)["Size"]
    assert above_base <= {"loader": 260 - 184, "server": 450 - 184}[name] * MB


def test_user_is_numeric_and_entry_point_is_not_a_shell(image: tuple[str, str]) -> None:
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


def test_has_only_the_files_it_needs(image: tuple[str, str]) -> None:
    name, reference = image
    files = [Path(line) for line in _run(reference, "find", "/app", "-type", "f").splitlines()]
    assert not [file for file in files if file.name in TOOLS]
    own = {str(file.relative_to("/app")) for file in files if ".venv" not in file.parts and file.suffix != ".pyc"}
    models = {"models/iris_svc.onnx", "models/label.json"}
    assert models & own == (models if name == "loader" else set())
    kinds = {".py", ".onnx", ".json"} if name == "loader" else {".html", ".py", ".yaml"}
    assert {Path(file).suffix for file in own} == kinds


def test_image_has_the_packages_and_variables_of_its_bentofile(variant: str, images: dict[str, str]) -> None:
    assert _run(variant, "tini", "--version").startswith("tini version")
    config, ours = (inspected(name)["Config"] for name in (variant, images["server"]))
    variables, our_variables = (dict(variable.split("=", 1) for variable in one["Env"]) for one in (config, ours))
    assert variables == our_variables | OPTIONS["env"]
    assert config | {"Env": [], "Labels": {}} == ours | {"Env": [], "Labels": {}}


@pytest.mark.parametrize(
    ("arguments", "port"),
    [((), 3000), (("serve",), 3000), (("serve", "--port", "3001"), 3001), (("--port", "3001"), 3001)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_entry_point_serves(images: dict[str, str], network: str, arguments: Sequence[str], port: int) -> None:
    """It accepts a command, no arguments, or options alone, like BentoML's own images."""
    name, published = f"e2e-{secrets.token_hex(4)}", free_port()
    options = {
        "name": name,
        "publish": f"127.0.0.1:{published}:{port}",
        "volume": f"{ROOT / 'models'}:/workdir:ro",
        "env": "MODEL_FILEPATH=/workdir/iris_svc.onnx",
    }
    with running(images["server"], network, options, *arguments):
        until(lambda: answers(f"http://127.0.0.1:{published}/readyz"), START_SECONDS)
        first = podman("exec", name, "cat", "/proc/1/cmdline").split("\0")[:-1]
        assert first == ["python", "-m", "model_server", *(arguments or ("serve",))]


def test_entry_point_checks_a_model(images: dict[str, str]) -> None:
    volume = f"--volume={ROOT / 'models'}:/workdir:ro"
    checked = podman("run", "--rm", volume, images["server"], "check", "/workdir/iris_svc.onnx", "--json")
    assert json.loads(checked)["labels"] == {"0": "setosa", "1": "versicolor", "2": "virginica"}


def _run(image: str, command: str, *arguments: str) -> str:
    return podman("run", "--rm", "--entrypoint", command, image, *arguments)
