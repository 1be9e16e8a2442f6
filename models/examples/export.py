"""Train the examples for `make serve EXAMPLE=…` and export them to titanic.onnx, text.onnx and house.onnx.

The data are synthetic, with fixed seeds. No example needs a label file: the classifiers contain their class names.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from onnx import ModelProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

_ROWS = 1000
_WORDS = {
    "praise": ["great", "lovely", "excellent", "happy", "perfect", "recommend"],
    "complaint": ["broken", "late", "poor", "sad", "refund", "missing"],
    "question": ["when", "how", "where", "which", "price", "available"],
}
_FILLERS = ["the", "parcel", "was", "so", "it", "and", "shop", "order"]


class Example(NamedTuple):
    """A trained model with its training data.

    Attributes:
        model: the ONNX model.
        pipeline: the scikit-learn pipeline that was exported.
        rows: the training data: a data frame, or an array of numbers or strings.
    """

    model: ModelProto
    pipeline: Pipeline
    rows: Any


def titanic() -> Example:
    """Return a classifier of passengers by their survival, trained on a data frame of numbers and strings."""
    generator = np.random.default_rng(1912)
    rows = pd.DataFrame(
        {"age": generator.uniform(1, 75, _ROWS).round(), "fare": generator.gamma(2, 15, _ROWS).round(2)}
    ).astype("float32")
    rows["sex"] = generator.choice(["female", "male"], _ROWS)
    rows["deck"] = generator.choice(["A", "B", "C", "D"], _ROWS)
    score = 2.5 * (rows.sex == "female") - 0.03 * rows.age + 0.02 * rows.fare - 1.2 + generator.logistic(0, 0.5, _ROWS)
    columns = make_column_transformer(
        (StandardScaler(), ["age", "fare"]), (OneHotEncoder(handle_unknown="ignore"), ["sex", "deck"])
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(rows, np.where(score > 0, "survived", "died"))
    model = to_onnx(pipeline, rows[:1], name="titanic", options={id(pipeline): {"zipmap": False}})
    return Example(_with_properties(model, data_sample=rows[:1].to_dict("records")), pipeline, rows)


def text() -> Example:
    """Return a classifier of short messages."""
    generator = np.random.default_rng(0)
    topics = generator.choice(list(_WORDS), _ROWS)
    rows = np.array([" ".join(generator.choice(_FILLERS + 2 * _WORDS[topic], 8)) for topic in topics])
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(rows, topics)
    model = to_onnx(
        pipeline,
        name="text",
        initial_types=[("text", StringTensorType([None]))],
        # Without this option, the model requires the locale en_US.UTF-8.
        options={id(pipeline): {"zipmap": False}, TfidfVectorizer: {"locale": "C"}},
    )
    return Example(_with_properties(model, data_sample=["the parcel was late and the cup is broken"]), pipeline, rows)


def house() -> Example:
    """Return a regressor that predicts the price of a house in thousands."""
    generator = np.random.default_rng(7)
    names = ["area (m2)", "rooms", "age (years)", "distance to the centre (km)"]
    rows = np.column_stack(
        [
            generator.uniform(40, 250, _ROWS).round(),
            generator.integers(1, 9, _ROWS),
            generator.integers(0, 120, _ROWS),
            generator.gamma(2, 4, _ROWS).round(1),
        ]
    ).astype("float32")
    area, rooms, age, distance = rows.T.astype(float)
    prices = 60 + 3.5 * area + 8 * rooms - 0.6 * age - 6 * distance + generator.normal(0, 20, _ROWS)
    estimator = GradientBoostingRegressor(n_estimators=40, max_depth=3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), estimator).fit(rows, prices)
    model = to_onnx(pipeline, name="house", initial_types=[("house", FloatTensorType([None, len(names)]))])
    return Example(_with_properties(model, data_sample=rows[:1].tolist(), feature_names=names), pipeline, rows)


EXAMPLES = {"titanic": titanic, "text": text, "house": house}


def _with_properties(model: ModelProto, **properties: object) -> ModelProto:
    model.opset_import.sort(key=lambda opset: opset.domain)  # the exporter's order depends on the hash seed
    helper.set_model_props(model, {name: json.dumps(value) for name, value in properties.items()})
    return model


def main() -> None:
    """Train, export and write all examples."""
    for name, make in EXAMPLES.items():
        (Path(__file__).parent / f"{name}.onnx").write_bytes(make().model.SerializeToString())


if __name__ == "__main__":
    main()
