"""`bentoml build`: the bento, served from the store, and its Dockerfile."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.bento import build
from tests.support.processes import BENTOML_SERVE, IRIS, ROOT, in_new_interpreter, serving


def dockerfile(bento: Path) -> str:
    """Return the Dockerfile of the bento's image."""
    return (bento / "env" / "docker" / "Dockerfile").read_text()


def test_build_and_serve(tmp_path: Path) -> None:
    bento = build(tmp_path)
    packed = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    ours = {str(path.relative_to(ROOT)) for name in ("model_server", "volume") for path in (ROOT / name).rglob("*.py")}
    assert packed == {"service.py", "bentofile.yaml", "model_server/http/page.html", *ours}
    required = (bento / "env" / "python" / "requirements.txt").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for dependency in project["dependencies"]:
        name = re.split(r"[^\w-]", dependency)[0]
        assert re.search(rf"^{name}==\S+", required, re.MULTILINE), name
    assert dockerfile(bento).startswith("FROM docker.io/library/python:3.13-slim AS base\n# The official image")
    assert "apt-get" not in dockerfile(bento)
    with serving(tmp_path, IRIS, "model_load_server:latest", in_new_interpreter(BENTOML_SERVE)) as server:
        assert server.predict([[5.1, 3.5, 1.4, 0.2]], "/predict/label") == "setosa"
        assert server.client.get("/").text.startswith("<!doctype html>")


@pytest.mark.nightly
def test_python_version_chooses_the_base_image(tmp_path: Path) -> None:
    assert dockerfile(build(tmp_path, python_version="3.12")).startswith(
        "FROM docker.io/library/python:3.12-slim AS base\n"
    )


@pytest.mark.nightly
def test_base_image_is_used_unchanged(tmp_path: Path) -> None:
    """With `base_image`, BentoML ignores `system_packages`, and says so."""
    text = dockerfile(build(tmp_path, base_image="registry.example.com/python:1", system_packages=["hostname"]))
    assert text.startswith("FROM registry.example.com/python:1 AS base\n")
    assert "hostname" not in text


@pytest.mark.nightly
@pytest.mark.parametrize(("option", "value"), [("distro", "alpine"), ("cuda_version", "12")])
def test_unsupported_option_fails_the_image(tmp_path: Path, option: str, value: str) -> None:
    text = dockerfile(build(tmp_path, **{option: value}))
    assert re.search(rf'^RUN echo "[^"]*\bdocker\.{option}\b[^"]*" >&2; exit 1$', text, re.MULTILINE)
