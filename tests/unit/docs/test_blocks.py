"""Every block of code in the documents is run by a test, or marked as needing a cluster and read here."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.documents import DATA, DOCUMENTS, EXPORT, EXPORT_NIGHTLY, Block, blocks
from tests.support.processes import ROOT

CLUSTER = "console cluster"
MAKE = re.compile(r"(?:[`$&;] ?)make ((?:[a-z][a-z0-9-]*|[A-Z_]+=\S+)(?: (?:[a-z][a-z0-9-]*|[A-Z_]+=\S+))*)")
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_fence_is_a_block() -> None:
    for name, text in DOCUMENTS.items():
        fences = re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)
        assert len(fences) == 2 * sum(block.document == name for block in blocks()), name


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_block_says_what_it_is(block: Block) -> None:
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
def test_cluster_block_can_be_read(block: Block) -> None:
    script = "\n".join(command for command, _ in block.commands)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)  # noqa: S607
    for overlay in re.findall(r"(?:apply|delete|kustomize) -k (\S+)", script):
        assert (ROOT / overlay / "kustomization.yml").exists()
    for path in re.findall(r"\b(?:k8s|docs|loader|build)/[\w./-]+", script):
        assert path.startswith("build/") or (ROOT / path).exists(), path


def test_pinning_changes_the_settings(tmp_path: Path) -> None:
    [sed] = [command for block in blocks(CLUSTER) for command, _ in block.commands if "sed -i" in command]
    settings = "k8s/overlays/gcs/settings.env"
    (tmp_path / settings).parent.mkdir(parents=True)
    (tmp_path / settings).write_bytes((ROOT / settings).read_bytes())
    pinned = {"BLOB": "iris/2/model.onnx", "GENERATION": "17", "SHA256": "0" * 64}
    subprocess.run(["bash", "-euc", sed], cwd=tmp_path, env=pinned, check=True)  # noqa: S607
    before, after = ((place / settings).read_text().splitlines() for place in (ROOT, tmp_path))
    assert [line for line in after if line not in before] == [
        "GCS_MODEL_BLOB=iris/2/model.onnx",
        "GCS_MODEL_GENERATION=17",
        f"MODEL_SHA256={'0' * 64}",
    ]
    assert len(after) == len(before)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_are_there(document: str) -> None:
    code = re.findall(r"`[^`\n]+`|^ *\$ .*", DOCUMENTS[document], re.MULTILINE)
    words = [word for piece in code for found in MAKE.findall(piece) for word in found.split()]
    assert {word for word in words if "=" not in word} <= TARGETS


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_tests_are_there(document: str) -> None:
    for file, test in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", DOCUMENTS[document]):
        found = [*(ROOT / "tests").rglob(file)]
        assert found, file
        assert not test or any(f"def {test}(" in path.read_text() for path in found), f"{file}::{test}"
