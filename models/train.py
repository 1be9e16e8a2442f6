"""Train the iris classifier of this repository and export it to ONNX.

Writes `iris_svc.onnx` and `label.json` to the directory of this file. The model is a scikit-learn pipeline of
`StandardScaler` and `SVC`, trained on the iris data set of scikit-learn (Fisher, 1936). The random seed is fixed, so
retraining gives the same predictions.
"""

import json
import warnings
from pathlib import Path

import numpy as np
from onnx import ModelProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

SEED = 42
TEST_SIZE = 0.25


def train() -> Pipeline:
    """Return the pipeline, trained on three quarters of the 150 rows."""
    rows, classes = load_iris(return_X_y=True)
    training_rows, _, training_classes, _ = train_test_split(
        rows.astype(np.float32), classes, test_size=TEST_SIZE, random_state=SEED
    )
    pipeline = make_pipeline(StandardScaler(), SVC(probability=True, random_state=SEED))
    with warnings.catch_warnings():
        # scikit-learn 1.9 deprecates `probability=True`; skl2onnx cannot export its replacement as one SVMClassifier.
        warnings.simplefilter("ignore", FutureWarning)
        return pipeline.fit(training_rows, training_classes)


def export(pipeline: Pipeline) -> ModelProto:
    """Return the pipeline as an ONNX model.

    The input is float32 (N, 4). The outputs are labels, int64 (N,), and probabilities, float32 (N, 3).
    """
    iris = load_iris()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model: ModelProto = to_onnx(
            pipeline,
            name="iris_svc",
            initial_types=[("data", FloatTensorType([None, iris.data.shape[1]]))],
            options={id(pipeline): {"zipmap": False}},
        )
    model.opset_import.sort(key=lambda opset: opset.domain)  # the exporter's order depends on the hash seed
    helper.set_model_props(
        model,
        {
            "class_names": json.dumps(iris.target_names.tolist()),
            "data_sample": json.dumps(iris.data[:1].tolist()),
            "feature_names": json.dumps(iris.feature_names),
        },
    )
    return model


def main() -> None:
    """Train the model and write the model file and the label file."""
    directory = Path(__file__).parent
    (directory / "iris_svc.onnx").write_bytes(export(train()).SerializeToString())
    labels = {str(index): name for index, name in enumerate(load_iris().target_names.tolist())}
    (directory / "label.json").write_text(json.dumps(labels) + "\n")


if __name__ == "__main__":
    main()
