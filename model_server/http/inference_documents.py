"""The routes of the Open Inference Protocol in the OpenAPI document."""

import math
from collections.abc import Mapping
from typing import Any

from model_server.http.documents import nested_schema, object_schema, response, tuple_schema, value_schema
from model_server.http.inference import LIVE, MODEL, MODELS, READY, ROOT, VERSION
from model_server.model.row_spec import RowSpec
from model_server.protocols.open_inference import OpenInference
from model_server.protocols.tensors import datatype_of

_ERRORS = {
    400: "The body is not a request of the protocol, or its tensors are invalid for the model.",
    404: "There is no such model or version.",
    408: "The request did not arrive in time.",
    413: "The body is larger than the limit.",
    415: "The body is neither application/json nor application/octet-stream.",
    431: "The path and the headers are larger than 64 KiB.",
    500: "The server failed.",
    503: "Too many requests are in flight, or the server is not ready.",
    504: "The model did not answer in time.",
}
_TEXT = {"type": "string"}
_TRUE = {"const": True}
_TENSOR = object_schema({"name": _TEXT, "datatype": _TEXT, "shape": {"type": "array", "items": {"type": "integer"}}})
_NONE = {"type": "array", "maxItems": 0}


def describe_inference(protocol: OpenInference, inputs: Mapping[str, RowSpec]) -> dict[str, Any]:
    """Return the paths of the protocol with the tensors of the model.

    Args:
        protocol: the protocol of the served model.
        inputs: the types and shapes of the model's inputs.
    """
    health = object_schema({"live": _TRUE, "ready": _TRUE})
    server = object_schema({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}})
    paths: dict[str, Any] = {
        ROOT: _get("Return the server's name, version and extensions.", server),
        LIVE: _get("Return that the server is up.", health),
        READY: _get("Return that the server can answer.", health),
        MODELS: _get("List the names of the models.", object_schema({"models": {"const": [protocol.name]}})),
    }
    name, version = _parameter("model_name", protocol.name), _parameter("model_version", protocol.version)
    ready = object_schema({"name": {"const": protocol.name}, "ready": _TRUE})
    for path, parameters in ((MODEL, [name]), (VERSION, [name, version])):
        paths |= {
            path: {"parameters": parameters, **_get("Return the model's inputs and outputs.", _metadata())},
            f"{path}/ready": {"parameters": parameters, **_get("Return that the model is ready.", ready)},
            f"{path}/infer": {"parameters": parameters, "post": _infer(protocol, inputs)},
        }
    return paths


def _infer(protocol: OpenInference, inputs: Mapping[str, RowSpec]) -> dict[str, Any]:
    output = {**_TENSOR, "properties": {**_TENSOR["properties"], "data": {"type": "array"}, "parameters": {}}}
    answer = object_schema(
        {
            "model_name": {"const": protocol.name},
            "model_version": {"const": protocol.version},
            "id": _TEXT,
            "outputs": {"type": "array", "items": output},
        }
    )
    answered = response("The outputs that the request asks for.", answer)
    answered["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Answer the rows in the input tensors.",
        "description": "The schema is that of one row, because a schema cannot say that data is as long as a shape. A "
        "request may have any number of rows, and binary tensors.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _request(protocol, inputs)}}},
        "responses": {"200": answered, **_errors()},
    }


def _request(protocol: OpenInference, inputs: Mapping[str, RowSpec]) -> dict[str, Any]:
    parameters = {"type": ["object", "null"]}
    outputs = {
        name: object_schema({"name": {"const": name}, "parameters": parameters}, "name") for name in protocol.outputs
    }
    wanted = [*([output] for output in outputs.values()), list(outputs.values())]
    return object_schema(
        {
            "id": {"type": ["string", "null"]},
            "parameters": parameters,
            "inputs": tuple_schema([_input(name, spec) for name, spec in inputs.items()]),
            "outputs": {"anyOf": [{"type": "null"}, _NONE, *map(tuple_schema, wanted)]},
        },
        "inputs",
    )


def _input(name: str, spec: RowSpec) -> dict[str, Any]:
    shape = (1, *(length or 1 for length in spec.row_shape))
    flat = nested_schema(value_schema(spec), (math.prod(shape),))
    return object_schema(
        {
            "name": {"const": name},
            "datatype": {"const": datatype_of(spec.dtype)},
            "shape": {"const": list(shape)},
            "data": {"anyOf": [flat, nested_schema(value_schema(spec), shape)]},
        }
    )


def _metadata() -> dict[str, Any]:
    tensors = {"type": "array", "items": _TENSOR}
    versions = {"type": "array", "items": _TEXT}
    return object_schema(
        {"name": _TEXT, "versions": versions, "platform": _TEXT, "inputs": tensors, "outputs": tensors}
    )


def _parameter(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [value]}}


def _get(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": response(summary, schema), **_errors()}}}


def _errors() -> dict[str, Any]:
    schema = object_schema({"error": _TEXT})
    return {str(status): response(text, schema) for status, text in _ERRORS.items()}
