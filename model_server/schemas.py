"""What the five routes take and give: as types, and as the OpenAPI document of the model that is served."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from model_server.protocols.codec import RowCodec

Rows = Annotated[list[Any], Field(description="Rows of numbers, each of the shape that the model takes.")]

_ERRORS = {
    400: "The body is not JSON, or its data not rows that the model takes.",
    408: "The request did not arrive in time.",
    413: "The body is larger than the limit.",
    415: "The body is not application/json.",
    431: "The path and the headers are larger than 64 KiB.",
    500: "The server failed.",
    503: "Too many requests are in flight.",
    504: "The model did not answer in time.",
}


class Health(BaseModel):
    """The service is up."""

    health: str = "ok"


class Metadata(BaseModel):
    """What the model takes and gives: types, shapes with a batch of 1, and a sample with its rounded answer."""

    data_type: str
    data_shape: str
    data_sample: list[Any]
    prediction_type: str
    prediction_shape: str
    prediction_sample: list[float]


class Prediction(BaseModel):
    """The probability of each class: a list for one row, a list of such lists for several."""

    prediction: list[float] | list[list[float]]


class LabelPrediction(BaseModel):
    """The name of the most probable class: a string for one row, a list of strings for several."""

    prediction: str | list[str]


class Error(BaseModel):
    """What was wrong and what was expected, in one sentence."""

    detail: str


def add_predictions(document: dict[str, Any], codec: RowCodec, sample: list[Any], labels: dict[str, str]) -> None:
    """Add both prediction routes to an OpenAPI 3.1 document, as this model takes and answers them.

    Args:
        document: the document, which is changed.
        codec: knows the type and shape of a row.
        sample: rows for the example of a request.
        labels: name of each class by its index.
    """
    data = _nested(_number(codec), codec.row_shape)
    request = {
        "type": "object",
        "properties": {"data": {"type": "array", "items": data, "minItems": 1, "description": "One row or more."}},
        "required": ["data"],
        "additionalProperties": False,
        "example": {"data": sample},
    }
    probabilities = _nested({"type": "number"}, (len(labels),))
    name = {"type": "string", "enum": sorted(set(labels.values()))}
    answers = {
        "/predict": (Prediction, probabilities, "Return the probability of each class."),
        "/predict/label": (LabelPrediction, name, "Return the name of the most probable class."),
    }
    for path, (kind, answer, summary) in answers.items():
        document["paths"][path] = {
            "post": {
                "operationId": path.strip("/").replace("/", "_"),
                "summary": summary,
                "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
                "responses": {
                    "200": _response(kind.__doc__, _prediction(answer)),
                    **{str(status): _response(text, Error.model_json_schema()) for status, text in _ERRORS.items()},
                },
            }
        }


def _response(description: str | None, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _prediction(one: dict[str, Any]) -> dict[str, Any]:
    several = {"type": "array", "items": one, "minItems": 2}
    return {"type": "object", "properties": {"prediction": {"anyOf": [one, several]}}, "required": ["prediction"]}


def _nested(schema: dict[str, Any], shape: tuple[int | None, ...]) -> dict[str, Any]:
    for length in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": length or 1} | ({"maxItems": length} if length else {})
    return schema


def _number(codec: RowCodec) -> dict[str, Any]:
    smallest, largest = codec.limits
    return {"type": "number" if codec.dtype.kind == "f" else "integer", "minimum": smallest, "maximum": largest}
