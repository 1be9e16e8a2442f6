"""The OpenAPI description of the prediction routes."""

from typing import Any

import numpy as np

from model_server.protocols.codec import RowCodec
from model_server.schemas import add_predictions


def request_row(dtype: str, row_shape: tuple[int | None, ...]) -> Any:
    document: dict[str, Any] = {"paths": {}}
    add_predictions(document, RowCodec(np.dtype(dtype), row_shape), [[0]], {"0": "no", "1": "yes"})
    schema = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema["properties"]["data"]["items"]


def test_a_scalar_row() -> None:
    assert request_row("bool", ()) == {"type": "integer", "minimum": 0, "maximum": 1}


def test_fixed_and_free_dimensions() -> None:
    row = request_row("float16", (2, None))
    assert (row["minItems"], row["maxItems"]) == (2, 2)
    assert (row["items"]["minItems"], "maxItems" in row["items"]) == (1, False)
    assert row["items"]["items"] == {"type": "number", "minimum": -65504.0, "maximum": 65504.0}


def test_answers() -> None:
    document: dict[str, Any] = {"paths": {}}
    add_predictions(document, RowCodec(np.dtype("f4"), (2,)), [[0, 0]], {"0": "no", "1": "yes"})

    def one_or_many(path: str) -> list[Any]:
        schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        forms: list[Any] = schema["properties"]["prediction"]["anyOf"]
        return forms

    one, many = one_or_many("/predict")
    assert (one["minItems"], one["maxItems"], one["items"]) == (2, 2, {"type": "number"})
    assert many["items"] == one
    one, many = one_or_many("/predict/label")
    assert one == {"type": "string", "enum": ["no", "yes"]}
    assert many["items"] == one
