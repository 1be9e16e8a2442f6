"""The exports of docs/models.md: each is checked and served, and answers what its library answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_server.check import check
from tests.support.documents import EXPORT, EXPORT_NIGHTLY, Block, blocks
from tests.support.forks import Forks
from tests.support.processes import ONE_PROCESS, ROOT, serving

_ROWS = 200
_EXPORT = """
import json, sys, warnings
warnings.simplefilter("ignore")
space = {}
exec(compile(open(sys.argv[1]).read(), "block", "exec"), space)
rows, model = space["rows"][:200], space["model"]
answers = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows)
data = rows.to_dict("records") if hasattr(rows, "to_dict") else rows.tolist()
json.dump({"data": data, "answers": answers.tolist()}, open("answers.json", "w"))
"""
# The same for a network of PyTorch that gives logits, or of Keras.
_EXPORT_NETWORK = """
import json, sys
space = {}
exec(compile(open(sys.argv[1]).read(), "block", "exec"), space)
import torch
model, inputs = space["model"], space.get("inputs")
if inputs:
    columns = {name: values[:200].tolist() for name, values in inputs.items()}
    data = [dict(zip(columns, row)) for row in zip(*columns.values())]
    answers = model(**{name: values[:200] for name, values in inputs.items()}).logits.softmax(1)
else:
    rows = space["rows"][:200]
    data = rows.tolist()
    answers = torch.tensor(model.predict(rows)) if hasattr(model, "predict") else model(torch.tensor(rows)).softmax(1)
json.dump({"data": data, "answers": answers.detach().tolist()}, open("answers.json", "w"))
"""
# Of an environment with PyTorch, Keras and Transformers: `make nightly` builds it.
_NETWORKS_PYTHON = os.environ.get("NETWORKS_PYTHON", "")


@pytest.fixture(scope="module")
def forks() -> Forks:
    """A process that has imported the libraries, which takes most of the time of an export."""
    return Forks(sys.executable, os.environ, ROOT, ["catboost", "onnxmltools", "skl2onnx", "sklearn", "xgboost"])


def write(block: Block, directory: Path, script: str) -> None:
    """Write the block and the script that runs it."""
    (directory / "block.py").write_text(block.text)
    (directory / "run.py").write_text(script)


def read_answers(directory: Path) -> dict[str, Any]:
    """Return 200 rows as JSON, and what the library answers to them."""
    answers: dict[str, Any] = json.loads((directory / "answers.json").read_text())
    assert len(answers["data"]) == _ROWS
    return answers


def assert_serves(directory: Path, answers: dict[str, Any]) -> None:
    """Assert that `check` accepts the model in the directory, and that the service answers like its library."""
    assert check(directory / "model.onnx", None, as_json=False, seconds=60) == 0
    expected = np.array(answers["answers"])
    with serving(
        directory, {"MODEL_FILEPATH": str(directory / "model.onnx"), "LABEL_FILEPATH": ""}, command=ONE_PROCESS
    ) as server:
        found = np.array(server.predict(answers["data"]))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", blocks(EXPORT), ids=str)
def test_serves_what_the_block_exports(block: Block, forks: Forks, tmp_path: Path) -> None:
    write(block, tmp_path, _EXPORT)
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert forks.start("run", ["block.py"], environment, log, log, tmp_path).wait(300) == 0, log.read_text()
    assert_serves(tmp_path, read_answers(tmp_path))


@pytest.mark.skipif(not _NETWORKS_PYTHON, reason="needs large libraries: make nightly")
@pytest.mark.parametrize("block", blocks(EXPORT_NIGHTLY), ids=str)
def test_serves_the_network_that_the_block_exports(block: Block, tmp_path: Path) -> None:
    write(block, tmp_path, _EXPORT_NETWORK)
    subprocess.run([_NETWORKS_PYTHON, "run.py", "block.py"], cwd=tmp_path, check=True, timeout=300)
    assert_serves(tmp_path, read_answers(tmp_path))
