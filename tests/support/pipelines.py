"""Models with mixed columns, text and tokens, exported like users export them."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from onnx import ModelProto, TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import BooleanTensorType, FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.support.classifiers import Array, Shape, model

LABELS = ["lost", "saved"]
SEXES = ["female", "male"]
PORTS = ["Cherbourg", "Queenstown", "Southampton"]
PASSENGER: dict[str, Any] = {"age": 31.5, "fare": 7.25, "siblings": 1, "alone": True, "sex": "male", "port": PORTS[1]}

TOPICS = ["space", "sport"]
STRINGS = [
    ("the rocket left earth for the moon", 0),
    ("a probe flew past the planet and its moon", 0),
    ("the team won the match in the last minute", 1),
    ("a goal in the first half of the match", 1),
]

WORDS = 50  # vocabulary size of `tokens`


def passengers(count: int, seed: int = 0) -> pd.DataFrame:
    """Return synthetic passengers, one per row."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.uniform(1, 80, count).astype(np.float32),
            "fare": rng.uniform(5, 500, count).astype(np.float32),
            "siblings": rng.integers(0, 4, count),
            "alone": rng.integers(0, 2, count).astype(bool),
            "sex": rng.choice(SEXES, count),
            "port": rng.choice(PORTS, count),
        }
    )


@cache
def _fitted(handle_unknown: str) -> Pipeline:
    frame = passengers(400)
    saved = (frame["sex"] == "female") ^ (frame["age"] < 10)
    encoder = OneHotEncoder(handle_unknown=handle_unknown)
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["age", "fare"]),
            ("counts", "passthrough", ["siblings", "alone"]),
            ("categories", encoder, ["sex", "port"]),
        ]
    )
    return Pipeline([("columns", columns), ("classifier", LogisticRegression(max_iter=1000))]).fit(frame, saved)


@cache
def titanic(handle_unknown: str = "ignore", properties: tuple[tuple[str, str], ...] = ()) -> ModelProto:
    """Return a pipeline over a data frame, as skl2onnx exports it: one input per column.

    Args:
        handle_unknown: how the encoder handles unknown categories; "error" makes it fail.
        properties: metadata properties of the file.
    """
    types = {
        "age": FloatTensorType([None, 1]),
        "fare": FloatTensorType([None, 1]),
        "siblings": Int64TensorType([None, 1]),
        "alone": BooleanTensorType([None, 1]),
        "sex": StringTensorType([None, 1]),
        "port": StringTensorType([None, 1]),
    }
    made: ModelProto = to_onnx(_fitted(handle_unknown), initial_types=list(types.items()), options={"zipmap": False})
    helper.set_model_props(made, dict(properties))
    return made


def probabilities(frame: pd.DataFrame) -> Array:
    """Return the predictions of the scikit-learn pipeline, of shape (N, 2)."""
    answer: Array = _fitted("ignore").predict_proba(frame)
    return answer


@cache
def _fitted_text() -> Pipeline:
    strings, topics = zip(*STRINGS, strict=True)
    return Pipeline([("words", TfidfVectorizer()), ("classifier", LogisticRegression())]).fit(strings, topics)


def text_probabilities(strings: list[str]) -> Array:
    """Return the predictions of the scikit-learn text classifier, of shape (N, 2)."""
    answer: Array = _fitted_text().predict_proba(strings)
    return answer


@cache
def text_classifier(locale: str = "C", width: int | None = 1) -> ModelProto:
    """Return a text classifier.

    Args:
        locale: the locale for upper and lower case; the default of skl2onnx is en_US.UTF-8.
        width: number of strings in a row; None if a row is a string instead of a list.
    """
    shape = [None] if width is None else [None, width]
    pipeline = _fitted_text()
    options = {id(pipeline["words"]): {"locale": locale}, id(pipeline["classifier"]): {"zipmap": False}}
    made: ModelProto = to_onnx(pipeline, initial_types=[("text", StringTensorType(shape))], options=options)
    return made


def sums(properties: dict[str, str] | None = None) -> ModelProto:
    """Return a model with two numeric inputs, of one value and of three: the softmax of their element-wise sum."""
    nodes = [helper.make_node("Add", ["one", "three"], ["sum"]), helper.make_node("Softmax", ["sum"], ["p"], axis=1)]
    shape: Shape = ["N", 3]
    inputs: dict[str, tuple[int, Shape | None]] = {
        "one": (TensorProto.FLOAT, ["N", 1]),
        "three": (TensorProto.FLOAT, shape),
    }
    return model(nodes, inputs, {"p": (TensorProto.FLOAT, shape)}, properties=properties)


def tokens(width: int = 8) -> ModelProto:
    """Return a model with token ids and a mask as inputs, each of shape (N, sequence), with embeddings and attention.

    Its cost grows with the square of the length.
    """
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["embedded", "turned"], ["scores"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "one"], ["wide_mask"]),
        helper.make_node("Mul", ["scores", "wide_mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "embedded"], ["attended"]),
        helper.make_node("ReduceMean", ["attended"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"], axis=1),
    ]
    weights: dict[str, Array] = {
        "embeddings": rng.normal(size=(WORDS, width)).astype(np.float32),
        "weights": rng.normal(size=(width, 2)).astype(np.float32),
        "one": np.array([1], np.int64),
    }
    form: tuple[int, Shape] = (TensorProto.INT64, ["batch", "sequence"])
    return model(nodes, {"input_ids": form, "attention_mask": form}, {"p": (TensorProto.FLOAT, ["batch", 2])}, weights)
