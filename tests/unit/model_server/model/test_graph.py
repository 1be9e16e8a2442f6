"""Operators, class names and categories in the nodes of a file."""

import random
import time
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from model_server.model.graph import Graph, Operator
from tests.support.classifiers import Array, classifier, model
from tests.support.processes import ROOT

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
ML = "ai.onnx.ml"


def graph(*nodes: NodeProto, weights: dict[str, Array] | None = None) -> Graph:
    made = model(nodes, {"x": (FLOAT, ["N", 1])}, {"y": (FLOAT, ["N", 1])}, weights)
    return Graph.read(made.SerializeToString())


def node(kind: str, taken: str = "x", given: str = "y", domain: str = ML, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, taken.split(), given.split(), domain=domain, **attributes)


def test_source_operator_of_the_iris_model() -> None:
    iris = Graph.read((ROOT / "models" / "iris_svc.onnx").read_bytes())
    assert iris.source_operator("probabilities") == Operator("SVMClassifier", ML)
    assert iris.source_operator("data") is iris.source_operator("nothing") is None
    assert iris.class_names(["label", "probabilities"]) == ()


def test_source_operator_skips_nodes_that_pass_values_on() -> None:
    made = graph(
        node("TreeEnsembleRegressor", given="a"),
        node("Reshape", "a shape", "b", domain=""),
        node("Identity", "b", domain=""),
    )
    assert made.source_operator("y") == Operator("TreeEnsembleRegressor", ML)
    made = graph(node("LinearRegressor", given="a"), node("Exp", "a", domain=""))
    assert made.source_operator("y") == Operator("Exp", "")


def test_source_operator_in_a_cycle_is_unknown() -> None:
    assert graph(node("Identity", "y", domain="")).source_operator("y") is None


@pytest.mark.parametrize(
    "made",
    [
        graph(node("ZipMap", classlabels_strings=["b", "a"])),
        graph(node("LinearClassifier", given="label y", classlabels_strings=["b", "a"])),
        graph(node("TreeEnsembleClassifier", given="label p", classlabels_strings=["b", "a"]), node("Normalizer", "p")),
        graph(node("LabelEncoder", keys_int64s=[0, 1], values_strings=["b", "a"])),
        graph(
            helper.make_node("ArgMax", ["x"], ["index"]),
            node("ArrayFeatureExtractor", "names index"),
            weights={"names": np.array(["b", "a"], object)},
        ),
    ],
    ids=["a ZipMap", "a classifier", "a classifier further away", "an encoder", "a choice"],
)
def test_class_names(made: Graph) -> None:
    assert made.class_names(["y"]) == ("b", "a")


def test_integers_are_not_class_names() -> None:
    assert graph(node("ZipMap", classlabels_int64s=[3, 7])).class_names(["y"]) == ()
    assert graph(node("LabelEncoder", keys_int64s=[1, 0], values_strings=["b", "a"])).class_names(["y"]) == ()


@pytest.mark.parametrize(
    ("nodes", "categories"),
    [
        ([node("OneHotEncoder", cats_strings=["f", "m"])], ("f", "m")),
        ([node("OneHotEncoder", cats_int64s=[-1, 3])], (-1, 3)),
        ([node("LabelEncoder", keys_strings=["f", "m"], values_int64s=[0, 1])], ("f", "m")),
        ([node("Gather", "x i", "a", ""), node("OneHotEncoder", "a", cats_int64s=[1])], (1,)),
        (
            [node("OneHotEncoder", cats_strings=["f", "m"]), node("OneHotEncoder", given="z", cats_strings=["x", "f"])],
            ("f",),
        ),
        ([node("Scaler", given="a", scale=[1.0]), node("OneHotEncoder", "a", cats_int64s=[1])], ()),
    ],
)
def test_categories(nodes: list[NodeProto], categories: tuple[str | int, ...]) -> None:
    assert graph(*nodes).categories("x") == categories
    assert graph(*nodes).categories("unknown") == ()


def test_long_attributes_are_skipped_quickly() -> None:
    forest = node("TreeEnsembleRegressor", nodes_values=np.ones(1_000_000, np.float32).tolist())
    content = model([forest], {"x": (FLOAT, ["N", 1])}, {"y": (FLOAT, ["N", 1])}).SerializeToString()
    began = time.perf_counter()
    made = Graph.read(content)
    assert made.source_operator("y") == Operator("TreeEnsembleRegressor", ML)
    assert made.class_names(["y"]) == ()
    assert time.perf_counter() - began < 0.5


def test_nothing_is_found_in_a_graph_with_too_many_fields() -> None:
    many = ModelProto()
    many.graph.node.append(node("Relu", "x", "y", ""))
    assert Graph.read(many.SerializeToString()).source_operator("y") is not None
    many.graph.MergeFromString(many.graph.SerializeToString() * 200_000)
    assert Graph.read(many.SerializeToString()).source_operator("y") is None


def test_malformed_content_never_raises() -> None:
    content = classifier(zip_map=True, names=["a", "b", "c"]).SerializeToString()
    generator = random.Random(0)  # noqa: S311 (no secret)
    for _ in range(2000):
        changed = bytearray(content[: generator.randrange(len(content) + 1)])
        for _ in range(generator.randrange(8) if changed else 0):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        made = Graph.read(bytes(changed))
        made.source_operator("probabilities")
        made.class_names(["probabilities"])
        made.categories("rows")
