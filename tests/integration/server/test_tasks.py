"""The routes and answers of models for each task."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.processes import ONE_PROCESS, serving
from tests.unit.model_server.model.test_outputs import LOGISTIC, ML, PROBABILITIES, ROWS, SCORES, linear, network

DATA = ROWS.tolist()
PATHS = {"/health", "/metadata", "/label", "/predict", "/predict/label"}


def test_values(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear("LinearRegressor", "y", targets=3).SerializeToString())
    with serving(tmp_path, {"MODEL_FILEPATH": str(path), "LABEL_FILEPATH": ""}, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(DATA), SCORES, rtol=1e-5)
        np.testing.assert_allclose(server.predict(DATA[:1]), SCORES[0], rtol=1e-5)
        assert server.metric("model_server_prediction_value_count") == SCORES.size + 3
        total = SCORES.sum() + SCORES[0].sum()
        assert server.metric("model_server_prediction_value_sum") == pytest.approx(total, 1e-5)
        for method, route in (
            ("GET", "/label"),
            ("HEAD", "/label"),
            ("POST", "/predict/label"),
            ("GET", "/predict/label"),
        ):
            answer = server.client.request(method, route, json={"data": DATA} if method == "POST" else None)
            assert answer.status_code == 404
            if method != "HEAD":
                assert answer.json() == {
                    "detail": f"{route} is for models with classes; this model predicts values: use POST /predict."
                }
        metadata = server.client.get("/metadata").json()
        assert (metadata["task"], metadata["prediction_shape"]) == ("values", "(1, 3)")
        assert metadata["prediction_sample"] == [0, 0, 0]
        document = server.client.get("/docs.json").json()
        assert PATHS - set(document["paths"]) == {"/label", "/predict/label"}
        page = server.client.get("/").text
        assert '"task":"values"' in page


def test_one_value(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network(columns=1).SerializeToString())
    environment = {"MODEL_FILEPATH": str(path), "LABEL_FILEPATH": "", "MODEL_OUTPUT": "values"}
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(DATA), SCORES[:, 0], rtol=1e-5)
        assert server.predict(DATA[:1]) == pytest.approx(float(SCORES[0, 0]))
        schema = server.client.get("/docs.json").json()["paths"]["/predict"]["post"]["responses"]["200"]
        forms = schema["content"]["application/json"]["schema"]["properties"]["prediction"]["anyOf"]
        assert forms[0] == {"type": "number"}


def test_independent_labels(tmp_path: Path) -> None:
    path, labels = tmp_path / "model.onnx", tmp_path / "label.json"
    path.write_bytes(network("Sigmoid").SerializeToString())
    labels.write_text(json.dumps({"0": "a", "1": "b", "2": "c"}))
    environment = {"MODEL_FILEPATH": str(path), "LABEL_FILEPATH": str(labels), "MODEL_OUTPUT": "sigmoid"}
    expected = [[name for name, probable in zip("abc", row, strict=True) if probable] for row in LOGISTIC >= 0.5]
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(DATA), LOGISTIC, atol=1e-6)
        assert server.predict(DATA, "/predict/label") == expected
        counted = {name: server.metric("model_server_predictions_total", **{"class": name}) for name in "abc"}
        assert counted == {name: 2 * sum(name in row for row in expected) for name in "abc"}
        assert server.predict(DATA[:1], "/predict/label") == expected[0]
        assert server.client.get("/metadata").json()["task"] == "multilabel"
        assert set(server.client.get("/docs.json").json()["paths"]) >= PATHS


def test_classes_without_a_label_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    names = ["c", "a", "b"]
    made = linear("LinearClassifier", "label y", classlabels_strings=names, post_transform="SOFTMAX")
    assert made.graph.node[0].domain == ML
    path.write_bytes(made.SerializeToString())
    with serving(tmp_path, {"MODEL_FILEPATH": str(path), "LABEL_FILEPATH": ""}, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(DATA), PROBABILITIES, atol=1e-6)
        assert server.predict(DATA, "/predict/label") == [names[index] for index in PROBABILITIES.argmax(axis=1)]
        assert server.client.get("/label").json() == {"0": "c", "1": "a", "2": "b"}
        assert "task" not in server.client.get("/metadata").json()
