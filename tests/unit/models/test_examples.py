"""The examples for `make serve EXAMPLE=…`, compared with the pipelines that they were exported from."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_server.model.model import Model
from model_server.settings import Settings
from models.examples.export import EXAMPLES, Example

DIRECTORY = Path(__file__).parents[3] / "models" / "examples"


@pytest.fixture(params=EXAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def example(name: str) -> Example:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EXAMPLES[name]()


def as_rows(rows: Any) -> Any:
    return rows.to_dict("records") if hasattr(rows, "to_dict") else rows.tolist()


def test_example_predicts_like_its_pipeline(name: str, example: Example) -> None:
    served = Model.load(Settings.read({"MODEL_FILEPATH": str(DIRECTORY / f"{name}.onnx")}))
    predictions = served.predict(served.spec.rows(as_rows(example.rows)))
    if name == "house":
        expected = example.pipeline.predict(example.rows)
    else:
        expected = example.pipeline.predict_proba(example.rows)
        assert list(served.labels.values()) == example.pipeline.classes_.tolist()
    np.testing.assert_allclose(predictions, expected, rtol=1e-5, atol=1e-5)


def test_example_has_a_sample(example: Example) -> None:
    properties = {entry.key: json.loads(entry.value) for entry in example.model.metadata_props}
    assert properties["data_sample"]
