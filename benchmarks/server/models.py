"""The models of the benchmark: iris, one with wide rows, and a slow one."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.environments import ROOT
from tests.support.classifiers import classifier

_SIDE = 256


@dataclass(frozen=True)
class BenchmarkModel:
    """A model, its label file, and the number of values per row."""

    path: Path
    labels: Path
    width: int

    def rows(self, count: int) -> list[list[float]]:
        """Return random rows with one decimal, as in the iris data set; always the same for a count."""
        chance = np.random.default_rng(count)
        return [[round(float(number), 1) for number in row] for row in chance.uniform(0.1, 8, (count, self.width))]


def benchmark_models(directory: Path, slow_seconds: float = 0.05) -> dict[str, BenchmarkModel]:
    """Return the models by name: `iris`, and `wide` and `slow`, which are created in the directory.

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
    return {"iris": iris, "wide": BenchmarkModel(wide, labels, 30), "slow": BenchmarkModel(slow, labels, 4)}


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
