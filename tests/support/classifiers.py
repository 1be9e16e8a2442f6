"""Generators of ONNX classifiers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Shape = Sequence[int | str | None]


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[int, Shape | None]],
    outputs: Mapping[str, tuple[int, Shape] | None],
    weights: dict[str, Array] | None = None,
    properties: dict[str, str] | None = None,
) -> ModelProto:
    """Return a model with these nodes; an output without a signature is the sequence of maps of a ZipMap."""
    graph = helper.make_graph(
        list(nodes),
        "generated",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [
            helper.make_tensor_value_info(name, *signature) if signature else helper.make_empty_tensor_value_info(name)
            for name, signature in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=9
    )
    if properties:
        helper.set_model_props(made, properties)
    return made


def classifier(
    input_type: int = TensorProto.FLOAT,
    row_shape: Shape = (4,),
    *,
    batch: int | str = "N",
    classes: int = 3,
    names: Sequence[str] | Sequence[int] | None = None,
    zip_map: bool = False,
    label_output: bool = False,
    label_last: bool = False,
    output_type: int = TensorProto.FLOAT,
    output_name: str = "probabilities",
    trailing: Sequence[int] = (),
    properties: dict[str, str] | None = None,
) -> ModelProto:
    """Return a classifier whose answers `expected` computes.

    It averages over dynamic dimensions, multiplies the row by fixed weights and applies a softmax.

    Args:
        input_type: element type of the input.
        row_shape: shape of a row; a string is a dynamic dimension.
        batch: the batch dimension; a string is a dynamic dimension.
        classes: number of classes.
        names: class names of the ZipMap.
        zip_map: whether to output the probabilities as maps.
        label_output: whether to add an output with the most probable class, before the probabilities.
        label_last: whether that output comes after the probabilities instead.
        output_type: element type of the probabilities.
        output_name: name of the probabilities.
        trailing: dimensions of 1 after the classes.
        properties: metadata properties of the file.
    """
    is_dynamic = any(isinstance(length, str) for length in row_shape)
    width = 1 if is_dynamic or not row_shape else int(np.prod([int(length or 0) for length in row_shape]))
    nodes = [helper.make_node("Cast", ["rows"], ["floats"], to=TensorProto.FLOAT)]
    if is_dynamic:
        axes = list(range(1, len(row_shape) + 1))
        nodes.append(helper.make_node("ReduceMean", ["floats"], ["mean"], axes=axes, keepdims=0))
        nodes.append(helper.make_node("Reshape", ["mean", "matrix_shape"], ["matrix"]))
    else:
        nodes.append(helper.make_node("Reshape", ["floats", "matrix_shape"], ["matrix"]))
    nodes.append(helper.make_node("MatMul", ["matrix", "weights"], ["scores"]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["softmax"], axis=1))
    outputs: dict[str, tuple[int, Shape] | None] = {}
    if label_output and not label_last:
        outputs["label"] = (TensorProto.INT64, [batch])
    weights = {"weights": _weights(width, classes), "matrix_shape": np.array([-1, width], np.int64)}
    if zip_map:
        class_attribute = (
            {"classlabels_strings": names}
            if isinstance((names or [0])[0], str)
            else {"classlabels_int64s": list(names or range(classes))}
        )
        nodes.append(helper.make_node("ZipMap", ["softmax"], [output_name], domain="ai.onnx.ml", **class_attribute))
        outputs[output_name] = None
    elif trailing:
        weights["answer_shape"] = np.array([-1, classes, *trailing], np.int64)
        nodes.append(helper.make_node("Reshape", ["softmax", "answer_shape"], [output_name]))
        outputs[output_name] = (output_type, [batch, classes, *trailing])
    else:
        nodes.append(helper.make_node("Cast", ["softmax"], [output_name], to=output_type))
        outputs[output_name] = (output_type, [batch, classes])
    if label_output:
        nodes.append(helper.make_node("ArgMax", ["softmax"], ["label"], axis=1, keepdims=0))
        outputs["label"] = (TensorProto.INT64, [batch])
    return model(nodes, {"rows": (input_type, [batch, *row_shape])}, outputs, weights, properties)


def endless() -> ModelProto:
    """Return a model whose inference never ends because of a loop without a trip count."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Identity", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["", "true", "rows"], ["end"], body=body),
        helper.make_node("Softmax", ["end"], ["p"], axis=1),
    ]
    form: tuple[int, Shape] = (TensorProto.FLOAT, ["N", 3])
    return model(nodes, {"rows": form}, {"p": form}, {"true": np.array(True)})


def expected(rows: Array, classes: int = 3, *, averaged: bool = False) -> Array:
    """Return the probabilities that the models from `classifier` compute, of shape (N, classes)."""
    matrix = np.asarray(rows, np.float32).reshape(len(rows), -1)
    if averaged:
        matrix = matrix.mean(axis=1, keepdims=True)
    scores = matrix.astype(np.float64) @ _weights(matrix.shape[1], classes)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    answer: Array = powers / powers.sum(axis=1, keepdims=True)
    return answer


def save(made: ModelProto, directory: Path, labels: Sequence[str]) -> tuple[Path, Path]:
    """Write the model and a label file into the directory and return both paths."""
    model_path, label_path = directory / "model.onnx", directory / "label.json"
    model_path.write_bytes(made.SerializeToString())
    label_path.write_text(json.dumps({str(index): name for index, name in enumerate(labels)}))
    return model_path, label_path


def _weights(width: int, classes: int) -> Array:
    weights: Array = np.random.default_rng(0).normal(0, 1 / np.sqrt(width), (width, classes)).astype(np.float32)
    return weights
