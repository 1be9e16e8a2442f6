"""`python -m model_server check`, compared with the server whose answers it predicts."""

import json
import subprocess
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper

from tests.integration.server.test_receipt import load, offer
from tests.support.classifiers import classifier, save
from tests.support.processes import IRIS, ROOT, Server, interpreter


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [interpreter("service"), "-m", "model_server", "check", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output_of(command: str, server: Server) -> str:
    """Run a printed command against the server and return its output."""
    return subprocess.run(
        ["bash", "-c", command.removeprefix("$ ").replace("http://127.0.0.1:3000", server.url.rstrip("/"))],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_predicts_the_answers_of_the_server(iris: Server) -> None:
    checked = check(*IRIS.values())
    assert (checked.returncode, checked.stderr) == (0, "")
    lines = checked.stdout.splitlines()
    for route in ("/metadata", "/label"):
        assert iris.client.get(route).text in (line.removeprefix(route).strip() for line in lines)
    commands = [line for line in lines if line.startswith("$ curl ")]
    assert len(commands) == 2
    for command in commands:
        assert lines[lines.index(command) + 1] == output_of(command, iris)


def test_a_row_too_long_to_print_is_sent_from_the_metadata(iris: Server, tmp_path: Path) -> None:
    checked = check(save(classifier(row_shape=(784,)), tmp_path, ["a", "b", "c"])[0])
    command = next(line for line in checked.stdout.splitlines() if line.startswith("$ curl "))
    assert list(json.loads(output_of(command, iris))) == ["prediction"]


@pytest.mark.parametrize("external_data", [False, True])
def test_reports_whether_the_receipt_matches(tmp_path: Path, external_data: bool) -> None:  # noqa: FBT001
    offer(tmp_path / "source", external_data=external_data)
    assert "none: the file was not loaded" in check(tmp_path / "source" / "model.onnx").stdout
    load(tmp_path / "source", tmp_path / "volume")
    model = tmp_path / "volume" / "model.onnx"
    checked = check(model)
    assert checked.returncode == 0
    assert f"matches: {(tmp_path / 'source' / 'model.onnx').as_uri()} version " in checked.stdout
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    checked = check(model)
    assert checked.returncode == 1
    assert "its receipt says" in checked.stdout


def test_exits_if_the_model_never_answers(tmp_path: Path) -> None:
    checked = check(save(endless(), tmp_path, ["a", "b", "c"])[0], "--timeout", 1)
    assert checked.returncode == 1
    assert "was not loaded, or made no first prediction, within 1 s" in checked.stdout


@pytest.mark.parametrize("arguments", [(), ("a", "b", "c"), ("a", "--timeout", "soon")])
def test_usage(arguments: tuple[str, ...]) -> None:
    assert check(*arguments).returncode == 2


def endless() -> ModelProto:
    """Return a classifier with a practically endless loop before its answer."""
    made = classifier()
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    made.graph.initializer.append(helper.make_tensor("rounds", TensorProto.INT64, [], [1 << 62]))
    made.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    made.graph.node.append(helper.make_node("Loop", ["rounds", "yes", "probabilities"], ["after"], body=body))
    made.graph.output[0].name = "after"
    return made
