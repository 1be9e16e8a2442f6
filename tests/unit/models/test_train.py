"""The iris model compared with the pipeline that it was exported from."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn.datasets import load_iris
from sklearn.pipeline import Pipeline

from model_server.model.labels import load_labels
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from models.train import export, train

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return train()


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor(ModelFile.read(MODELS / "iris_svc.onnx"), load_labels(MODELS / "label.json"))


def test_agrees_with_the_pipeline_on_every_row(pipeline: Pipeline, shipped: Predictor) -> None:
    rows, classes = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    probabilities = shipped.predict(rows)
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(rows), atol=1e-5)
    predicted = probabilities.argmax(axis=1)
    assert predicted.tolist() == pipeline.predict(rows).tolist()
    assert (predicted == classes).mean() >= 0.96


def test_label_output_is_the_most_probable_class(shipped: Predictor) -> None:
    rows = load_iris().data.astype(np.float32)
    [labels] = ort.InferenceSession(MODELS / "iris_svc.onnx").run(["label"], {"data": rows})
    assert labels.tolist() == shipped.predict(rows).argmax(axis=1).tolist()


def test_specified_sample(shipped: Predictor) -> None:
    probabilities = shipped.predict(np.array([[5.1, 3.5, 1.4, 0.2]], np.float32))
    assert probabilities.round(2).tolist() == np.array([[0.97, 0.02, 0.01]], np.float32).tolist()


def test_retraining_gives_the_same_predictions(pipeline: Pipeline, shipped: Predictor, tmp_path: Path) -> None:
    again = tmp_path / "model.onnx"
    again.write_bytes(export(pipeline).SerializeToString())
    rows = load_iris().data.astype(np.float32)
    trained = Predictor(ModelFile.read(again), load_labels(MODELS / "label.json"))
    np.testing.assert_allclose(trained.predict(rows), shipped.predict(rows), atol=1e-6)


def test_metadata_properties() -> None:
    model = onnx.load(MODELS / "iris_svc.onnx")
    onnx.checker.check_model(model)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert [found.name for found in model.graph.input] == ["data"]
    assert properties == {
        "class_names": ["setosa", "versicolor", "virginica"],
        "data_sample": [[5.1, 3.5, 1.4, 0.2]],
        "feature_names": ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"],
    }
    assert list(load_labels(MODELS / "label.json") or ()) == properties["class_names"]
