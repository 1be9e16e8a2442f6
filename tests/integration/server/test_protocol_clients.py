"""The Open Inference Protocol as its clients speak it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Server, interpreter

CLIENTS = Path(__file__).parent / "clients"
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]
VERSION = "28e9ee65868e"


@pytest.fixture(scope="module")
def triton(iris: Server) -> dict[str, Any]:
    """What tritonclient gets from the server."""
    address = iris.url.removeprefix("http://")
    command = [interpreter("clients"), str(CLIENTS / "triton.py"), address]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_health_and_metadata(triton: dict[str, Any]) -> None:
    assert (triton["live"], triton["ready"], triton["model ready"]) == (True, True, [True, False, False])
    assert triton["server"]["extensions"] == ["binary_tensor_data", "classification"]
    assert triton["model"]["versions"] == [VERSION]


@pytest.mark.parametrize("form", ["binary", "JSON", "binary in", "binary out"])
def test_answers(iris: Server, triton: dict[str, Any], form: str) -> None:
    assert triton[form]["probabilities"] == iris.predict(ROWS)
    assert triton[form]["labels"] == ["setosa", "virginica"]


def test_ids(triton: dict[str, Any]) -> None:
    assert triton["binary"]["id"] == "an id"
    assert triton["JSON"]["id"]


def test_many_rows_and_asynchronous_requests(triton: dict[str, Any]) -> None:
    assert triton["many"] == [2000, 2000]
    assert [answer["labels"] for answer in triton["asynchronous"]] == [["setosa", "virginica"]] * 3


def test_classification(triton: dict[str, Any]) -> None:
    assert triton["classes"][0] == ["0.970671:0:setosa", "0.015920:1:versicolor"]


ERRORS = {
    "unknown model": ("404", 'There is no model "other"; expected "iris_svc".'),
    "wrong datatype": ("400", 'The datatype of the input "data" is "FP64"; expected "FP32".'),
    "not a number": (
        "400",
        '"data"[0][0] is nan; expected a number from -3.4028234663852886e+38 to 3.4028234663852886e+38.',
    ),
    "unknown output": ("400", 'The output "logits" is unknown; expected "probabilities", "label".'),
    "gzip": ("415", "The Content-Encoding is 'gzip'; expected an uncompressed body."),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_those_of_the_client(triton: dict[str, Any], name: str) -> None:
    status, sentence = ERRORS[name]
    assert triton[name] == [status, sentence]
