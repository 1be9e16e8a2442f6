"""The OpenAPI description of the prediction routes."""

from typing import Any

import numpy as np
import pytest

from model_server.api import Labels, Predictions
from model_server.http.documents import add_predictions
from model_server.http.methods import RowsMethod
from model_server.model.model import Model
from model_server.model.row_spec import RowSpec
from model_server.settings import Settings
from tests.support.processes import IRIS

PREDICT = RowsMethod("predict", "/predict", "data", len, False, None, Predictions, "Predict.")
METHODS = [PREDICT, PREDICT._replace(name="predict_label", route="/predict/label", returns=Labels)]


@pytest.fixture
def model() -> Model:
    return Model.load(Settings.read(IRIS))


def request_row(model: Model, dtype: str, row_shape: tuple[int | None, ...]) -> Any:
    document: dict[str, Any] = {"paths": {}}
    model.spec = RowSpec(np.dtype(dtype), row_shape)
    add_predictions(document, METHODS, model)
    schema = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema["properties"]["data"]["items"]


def test_a_scalar_row(model: Model) -> None:
    assert request_row(model, "bool", ()) == {"type": "integer", "minimum": 0, "maximum": 1}


def test_fixed_and_dynamic_dimensions(model: Model) -> None:
    row = request_row(model, "float16", (2, None))
    assert (row["minItems"], row["maxItems"]) == (2, 2)
    assert (row["items"]["minItems"], "maxItems" in row["items"]) == (1, False)
    assert row["items"]["items"] == {"type": "number", "minimum": -65504.0, "maximum": 65504.0}


def test_answers(model: Model) -> None:
    document: dict[str, Any] = {"paths": {}}
    add_predictions(document, METHODS, model)

    def one_or_many(path: str) -> list[Any]:
        schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        forms: list[Any] = schema["properties"]["prediction"]["anyOf"]
        return forms

    one, many = one_or_many("/predict")
    assert (one["minItems"], one["maxItems"], one["items"]) == (3, 3, {"type": "number"})
    assert many["items"] == one
    one, many = one_or_many("/predict/label")
    assert one == {"type": "string", "enum": ["setosa", "versicolor", "virginica"]}
    assert many["items"] == one
