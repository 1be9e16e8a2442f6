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
from tests.support.processes import FORKED, serving

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


def exported(block: Block, directory: Path, python: str, script: str) -> dict[str, Any]:
    """Run a block in a directory; return 200 rows as JSON, and what the library answers to them."""
    (directory / "block.py").write_text(block.text)
    (directory / "run.py").write_text(script)
    run = subprocess.run(
        [python, "run.py", "block.py"], cwd=directory, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    answers: dict[str, Any] = json.loads((directory / "answers.json").read_text())
    assert len(answers["data"]) == _ROWS
    return answers


def assert_serves(directory: Path, answers: dict[str, Any]) -> None:
    """Assert that `check` accepts the model in the directory, and that the service answers like its library."""
    assert check(directory / "model.onnx", None, as_json=False, seconds=60) == 0
    expected = np.array(answers["answers"])
    with serving(
        directory, {"MODEL_FILEPATH": str(directory / "model.onnx"), "LABEL_FILEPATH": ""}, command=FORKED
    ) as server:
        found = np.array(server.predict(answers["data"]))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", blocks(EXPORT), ids=str)
def test_serves_what_the_block_exports(block: Block, tmp_path: Path) -> None:
    assert_serves(tmp_path, exported(block, tmp_path, sys.executable, _EXPORT))


@pytest.mark.skipif(not _NETWORKS_PYTHON, reason="needs large libraries: make nightly")
@pytest.mark.parametrize("block", blocks(EXPORT_NIGHTLY), ids=str)
def test_serves_the_network_that_the_block_exports(block: Block, tmp_path: Path) -> None:
    assert_serves(tmp_path, exported(block, tmp_path, _NETWORKS_PYTHON, _EXPORT_NETWORK))
