"""Every code block in the documents is run by a test, or is marked as requiring a cluster and checked here."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from loader import __version__
from tests.support.documents import DATA, DOCUMENTS, EXPORT, EXPORT_NIGHTLY, Block, blocks
from tests.support.processes import ROOT
from tests.support.tools import MAKE_TARGETS

CLUSTER = "console cluster"
MAKE = re.compile(r"(?:[`$&;] ?)make ((?:[a-z][a-z0-9-]*|[A-Z_]+=\S+)(?: (?:[a-z][a-z0-9-]*|[A-Z_]+=\S+))*)")


def test_every_fence_belongs_to_a_block() -> None:
    for name, text in DOCUMENTS.items():
        fences = re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)
        assert len(fences) == 2 * sum(block.document == name for block in blocks()), name


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_block_is_labelled(block: Block) -> None:
    assert block.info in {"console", CLUSTER, "python", EXPORT, EXPORT_NIGHTLY, *DATA}
    if block.info in DATA:
        assert not block.commands, "commands are fenced as console"
    if block.info in ("console", CLUSTER):
        assert block.text.startswith("$ "), "a command follows a $"
    if block.info == "json":
        for line in block.text.splitlines():
            json.loads(line)
    if block.info == "yaml":
        yaml.safe_load(block.text)


@pytest.mark.parametrize("block", blocks(CLUSTER), ids=str)
def test_cluster_block_is_valid(block: Block) -> None:
    script = "\n".join(command for command, _ in block.commands)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)  # noqa: S607
    for overlay in re.findall(r"(?:apply|delete|kustomize) -k (\S+)", script):
        assert (ROOT / overlay / "kustomization.yml").exists()
    for path in re.findall(r"\b(?:k8s|docs|loader|build)/[\w./-]+", script):
        assert path.startswith("build/") or (ROOT / path).exists(), path


def edit(document: str, directory: Path, **variables: str) -> None:
    """Copy the overlays to the directory, and run those commands of a document that edit them."""
    shutil.copytree(ROOT / "k8s" / "overlays", directory / "k8s" / "overlays")
    commands = [command for block in blocks(CLUSTER) if block.document == document for command, _ in block.commands]
    script = "\n".join(command for command in commands if command.startswith("sed -i "))
    assert script
    subprocess.run(["bash", "-euc", script], cwd=directory, env=variables, check=True)  # noqa: S607


def test_pinning_changes_the_settings(tmp_path: Path) -> None:
    edit("docs/operations.md", tmp_path, BLOB="iris/2/model.onnx", GENERATION="17", SHA256="0" * 64)
    settings = "k8s/overlays/gcs/settings.env"
    before, after = ((place / settings).read_text().splitlines() for place in (ROOT, tmp_path))
    assert [line for line in after if line not in before] == [
        "GCS_MODEL_BLOB=iris/2/model.onnx",
        "GCS_MODEL_GENERATION=17",
        f"MODEL_SHA256={'0' * 64}",
    ]
    assert len(after) == len(before)


def test_deployment_from_a_bucket_changes_the_overlay(tmp_path: Path) -> None:
    edit("README.md", tmp_path)
    overlay = tmp_path / "k8s" / "overlays" / "gcs"
    assert {
        f"SERVER_IMAGE=registry.example.com/ml/model-load-server:{__version__}",
        f"LOADER_IMAGE=registry.example.com/ml/model-load-loader:{__version__}",
        "GCS_BUCKET=models",
        "GCS_MODEL_BLOB=iris/1/model.onnx",
    } <= {*(overlay / "settings.env").read_text().splitlines()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    code = re.findall(r"`[^`\n]+`|^ *\$ .*", DOCUMENTS[document], re.MULTILINE)
    words = [word for piece in code for found in MAKE.findall(piece) for word in found.split()]
    assert {word for word in words if "=" not in word} <= MAKE_TARGETS


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_tests_exist(document: str) -> None:
    for file, test in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", DOCUMENTS[document]):
        found = [*(ROOT / "tests").rglob(file)]
        assert found, file
        assert not test or any(f"def {test}(" in path.read_text() for path in found), f"{file}::{test}"
