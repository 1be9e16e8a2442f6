"""The prediction log has the inputs and answers of a sample; without it, nothing of a row is logged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, save_model

from tests.support.classifiers import model
from tests.support.processes import IRIS, ONE_PROCESS, ROOT, SERVICES, Server, events, serving, until
from volume.receipt import sha256_of

ROW = [5.1, 3.5, 1.4, 0.2]
PASSENGER = {"age": 48.0, "fare": 16.3, "sex": "male", "deck": "C"}
EXAMPLES = ROOT / "models" / "examples"
SECRET = "not-for-other-eyes"  # noqa: S105 (it opens nothing)
NUMBER = 7731095


def predictions(server: Server, count: int) -> list[dict[str, Any]]:
    """Return the lines of the log, once there are as many as expected."""

    def found() -> list[dict[str, Any]]:
        return [line for line in events(server.log) if line["event"] == "prediction"]

    until(lambda: len(found()) >= count)
    assert len(found()) == count
    return found()


def post(server: Server, path: str, rows: object, request_id: str = "", **fields: object) -> Any:
    """Return the prediction for rows."""
    headers = {"x-request-id": request_id} if request_id else {}
    answer = server.client.post(path, json={"data": rows, **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["prediction"]


def test_requests_without_asgi_are_logged(tmp_path: Path) -> None:
    environment = {**IRIS, **SERVICES, "PREDICTION_LOG_SAMPLE_RATE": "1", "BATCHING": "on"}
    with serving(tmp_path, environment, "methods:Methods", ONE_PROCESS) as server:
        first = post(server, "/predict", [ROW], "order-7")
        flowers = post(server, "/flowers", [ROW, ROW])
        post(server, "/later", [ROW])
        post(server, "/predict", [ROW] * 5000)  # in a thread
        tensor = {"name": "data", "datatype": "FP32", "shape": [1, 4], "data": ROW}
        answer = server.client.post("/v2/models/iris_svc/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200
        assert server.client.post("/predict", json={"data": [[1]]}).status_code == 400
        lines = predictions(server, 5)
        assert server.metric("model_server_prediction_log_dropped_total") == 0
    assert lines[0] | {"time": ""} == {
        "time": "",
        "level": "info",
        "event": "prediction",
        "model": sha256_of(Path(IRIS["MODEL_FILEPATH"])),
        "request_id": "order-7",
        "route": "/predict",
        "rows": 1,
        "inputs": [ROW],
        "answers": [first],
    }
    assert lines[1]["inputs"] == [ROW, ROW]
    assert lines[1]["answers"] == flowers
    np.testing.assert_allclose(lines[2]["answers"], [ROW], atol=1e-6)
    assert lines[3]["rows"] == 5000
    assert 50 < len(lines[3]["inputs"]) == len(lines[3]["answers"]) < 5000
    assert lines[4]["route"] == "/v2/models/{model_name}/infer"
    assert lines[4]["inputs"] == [ROW]
    assert lines[4]["answers"][0]["label"] == "setosa"
    assert max(map(len, server.log.read_text().splitlines())) < 16 << 10


def test_columns_through_middleware_are_sampled(tmp_path: Path) -> None:
    environment = {**SERVICES, "MODEL_FILEPATH": str(EXAMPLES / "titanic.onnx"), "PREDICTION_LOG_SAMPLE_RATE": "0.5"}
    with serving(tmp_path, environment, "protocols:Protocols", ONE_PROCESS, prefix="/ml") as server:
        for _ in range(2):
            names = post(server, "/ml/names", [PASSENGER], suffix="!")
            post(server, "/ml/predict", [PASSENGER])
        lines = predictions(server, 2)
    assert [line["route"] for line in lines] == ["/ml/predict"] * 2
    assert names.endswith("!")
    assert lines[0]["inputs"] == [PASSENGER]
    assert lines[0]["answers"] == [[1, 2, 3]]


def looks_up(*shape: int | str) -> ModelProto:
    """Return a model that fails for numbers above 9, in an operator whose message contains the number."""
    return model(
        [
            helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "ids"], ["found"]),
            helper.make_node("ReduceMean", ["found"], ["mean"], axes=[*range(1, 1 + len(shape))], keepdims=0),
            helper.make_node("Softmax", ["mean"], ["probabilities"], axis=1),
        ],
        {"x": (TensorProto.DOUBLE, ["N", *shape])},
        {"probabilities": (TensorProto.FLOAT, ["N", 3])},
        {"table": np.random.default_rng(0).random((10, 3), np.float32)},
        {"class_names": '["a", "b", "c"]', "data_sample": "[[1, 2]]" if len(shape) == 1 else "[[[1, 2]]]"},
    )


@pytest.mark.parametrize("name", ["numbers", "lengths", "titanic", "text"])
def test_nothing_of_a_row_is_logged_without_it(tmp_path: Path, name: str) -> None:
    path = EXAMPLES / f"{name}.onnx"
    if not path.exists():
        path = tmp_path / path.name
        save_model(looks_up(*([2] if name == "numbers" else ["L", 2])), path)
    environment = {"MODEL_FILEPATH": str(path), "LOG_LEVEL": "debug", "ACCESS_LOG_SAMPLE_RATE": "1"}
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        [sample] = server.client.get("/metadata").json()["data_sample"]
        bodies = [json.dumps({"data": [row]}).encode() for row in marked(sample)]
        tensor = {
            "name": "x",
            "shape": [1, 2] if name == "numbers" else [1, 1, 2],
            "datatype": "FP64",
            "data": [NUMBER, 1],
        }
        requests = [(route, body) for route in ("/predict", "/predict/label") for body in bodies]
        requests.append((f"/v2/models/{name}/infer", json.dumps({"inputs": [tensor]}).encode()))
        statuses = {server.client.post(route, content=body).status_code for route, body in requests}
    log = server.log.read_text()
    assert log.count('"event":"request"') > len(requests)
    assert SECRET not in log
    assert str(NUMBER) not in log
    if name in ("numbers", "lengths"):
        assert statuses == ({200, 400, 500} if name == "numbers" else {200, 400})
        assert "running Gather node" in log  # the model's error is logged, without the number
    else:
        assert statuses == {200, 400}


def marked(sample: Any) -> list[Any]:
    """Return rows like the sample, with values of their own in each place, and the sample."""
    found = [sample, {SECRET: NUMBER}, SECRET, [SECRET] * 9, [NUMBER] * 2, [[NUMBER] * 2]]
    if not isinstance(sample, str):
        for key in sample if isinstance(sample, dict) else range(len(sample)):
            for value in (SECRET, NUMBER, [SECRET], None):
                found.append(sample.copy())
                found[-1][key] = value
    return found
