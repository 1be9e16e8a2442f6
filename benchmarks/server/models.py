"""The models of the benchmark: iris, wide rows, named columns, nearest neighbours, a perceptron, and a slow one."""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.environments import ROOT
from tests.support.classifiers import classifier

_SIDE = 256
_NEIGHBOURS = 500
_PERCEPTRON = (784, 2048, 2048, 3)  # values of each layer
_CATEGORIES = ["red", "green", "blue", "yellow", "white"]
COLUMNS = {**{f"number_{index}": float for index in range(8)}, **{f"category_{index}": str for index in range(4)}}


@dataclass(frozen=True)
class BenchmarkModel:
    """A model, its label file, and the number of values per row; 0 if its columns are named."""

    path: Path
    labels: Path
    width: int

    def rows(self, count: int) -> list[Any]:
        """Return random rows with one decimal, as in the iris data set; always the same for a count."""
        chance = np.random.default_rng(count)
        if not self.width:
            records: list[Any] = _frame(count).to_dict("records")
            return records
        return [[round(float(number), 1) for number in row] for row in chance.uniform(0.1, 8, (count, self.width))]


def benchmark_models(directory: Path, slow_seconds: float = 0.05) -> dict[str, BenchmarkModel]:
    """Return the models by name: `iris`, and others that are created in the directory.

    Args:
        directory: directory for the created models.
        slow_seconds: approximate duration of an inference of the slow model.
    """
    iris = BenchmarkModel(ROOT / "models" / "iris_svc.onnx", ROOT / "models" / "label.json", 4)
    labels = directory / "label.json"
    labels.write_text(json.dumps({str(index): f"class {index}" for index in range(3)}))
    wide = directory / "wide.onnx"
    onnx.save(classifier(row_shape=(30,)), wide)
    slow = directory / "slow.onnx"
    # The time of two layers determines the number of layers.
    for layers in (2, max(2, round(2 * slow_seconds / _seconds(slow, 2)))):
        onnx.save(_network(layers), slow)
    columns = directory / "columns.onnx"
    onnx.save(_pipeline(), columns)
    neighbours = directory / "neighbours.onnx"
    onnx.save(_nearest_neighbours(), neighbours)
    mlp = directory / "mlp.onnx"
    onnx.save(_perceptron(), mlp)
    return {
        "iris": iris,
        "wide": BenchmarkModel(wide, labels, 30),
        "columns": BenchmarkModel(columns, labels, 0),
        "neighbours": BenchmarkModel(neighbours, labels, 4),
        "mlp": BenchmarkModel(mlp, labels, _PERCEPTRON[0]),
        "slow": BenchmarkModel(slow, labels, 4),
    }


def _frame(count: int) -> pd.DataFrame:
    """Return made-up rows of eight numbers and four categories."""
    chance = np.random.default_rng(count)
    return pd.DataFrame(
        {
            name: chance.uniform(0.1, 8, count).round(1) if kind is float else chance.choice(_CATEGORIES, count)
            for name, kind in COLUMNS.items()
        }
    )


def _pipeline() -> onnx.ModelProto:
    """Return a pipeline over a data frame as skl2onnx exports it: one input per column."""
    frame = _frame(500)
    numbers, categories = ([name for name, kind in COLUMNS.items() if kind is wanted] for wanted in (float, str))
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("categories", OneHotEncoder(handle_unknown="ignore"), categories)]
    )
    pipeline = Pipeline([("columns", columns), ("classifier", LogisticRegression(max_iter=1000))])
    pipeline.fit(frame, np.digitize(frame["number_0"], [2.5, 5.5]))
    types = [
        (name, FloatTensorType([None, 1]) if kind is float else StringTensorType([None, 1]))
        for name, kind in COLUMNS.items()
    ]
    made: onnx.ModelProto = to_onnx(pipeline, initial_types=types, options={"zipmap": False})
    return made


def _nearest_neighbours() -> onnx.ModelProto:
    """Return a classifier by nearest neighbours, whose inference takes about as long for several rows as for one."""
    chance = np.random.default_rng(0)
    rows = chance.uniform(0.1, 8, (_NEIGHBOURS, 4)).astype(np.float32)
    classifier = KNeighborsClassifier().fit(rows, np.digitize(rows[:, 0], [2.5, 5.5]))
    made: onnx.ModelProto = to_onnx(classifier, rows[:1], options={"zipmap": False})
    return made


def _perceptron() -> onnx.ModelProto:
    """Return a perceptron with two hidden layers, most of whose time goes into reading the weights."""
    chance = np.random.default_rng(0)
    nodes, weights = [], []
    for number, (width, height) in enumerate(itertools.pairwise(_PERCEPTRON)):
        values = chance.standard_normal((width, height)) / width**0.5
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"weights {number}"))
        nodes += [
            helper.make_node("MatMul", [f"layer {number}", f"weights {number}"], [f"product {number}"]),
            helper.make_node("Relu", [f"product {number}"], [f"layer {number + 1}"]),
        ]
    last = len(_PERCEPTRON) - 1
    nodes[-1] = helper.make_node("Softmax", [f"product {last - 1}"], ["probabilities"], axis=1)
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("layer 0", TensorProto.FLOAT, ["N", _PERCEPTRON[0]])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", _PERCEPTRON[-1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _seconds(path: Path, layers: int) -> float:
    onnx.save(_network(layers), path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        session.run(None, {"rows": np.zeros((1, 4), np.float32)})
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _network(layers: int) -> onnx.ModelProto:
    """Return a network that makes a square matrix from each row and multiplies it by weights `layers` times."""
    chance = np.random.default_rng(0)

    def weights(name: str, shape: Sequence[int]) -> onnx.TensorProto:
        return numpy_helper.from_array((chance.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32), name)

    nodes = [
        helper.make_node("MatMul", ["rows", "spread"], ["flat"]),
        helper.make_node("Reshape", ["flat", "square"], ["layer 0"]),
    ]
    for number in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"layer {number}", "weights"], [f"product {number}"]),
            helper.make_node("Tanh", [f"product {number}"], [f"layer {number + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"layer {layers}"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "classes"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [
            weights("spread", (4, _SIDE * _SIDE)),
            weights("weights", (_SIDE, _SIDE)),
            weights("classes", (_SIDE, 3)),
            numpy_helper.from_array(np.array([-1, _SIDE, _SIDE], np.int64), "square"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
