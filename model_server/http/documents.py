"""The OpenAPI document of the running service, including the rows and answers of its model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute, Route

from model_server.api import Error, Labels, Predictions
from model_server.http.methods import RowsMethod
from model_server.model.columns_spec import ColumnsSpec
from model_server.model.model import Model
from model_server.model.row_spec import RowSpec
from model_server.model.tasks import Task

_ERRORS = {
    400: "The body is not JSON, or its rows are invalid for the model.",
    408: "The request did not arrive in time.",
    413: "The body is larger than the limit.",
    415: "The body is not application/json.",
    431: "The path and the headers are larger than 64 KiB.",
    500: "The server failed.",
    503: "Too many requests are in flight.",
    504: "The model did not answer in time.",
}
_PATH = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}


class Mounted(NamedTuple):
    """An application that is mounted in the service.

    Attributes:
        path: path at which it is mounted.
        routes: routes of the application; None if they are unknown.
    """

    path: str
    routes: Sequence[BaseRoute] | None


def describe(title: str, mounted: Iterable[Mounted], apis: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document of all routes except predictions.

    Args:
        title: name of the service.
        mounted: the applications that are mounted in the service.
        apis: BentoML's own document. Its error responses are replaced by those of this server.
    """
    document: dict[str, Any] = {"openapi": "3.1.0", "info": {"title": title, "version": "1"}, "paths": {}}
    schemas: dict[str, Any] = dict(apis.get("components", {}).get("schemas", {}))
    for path, operations in apis.get("paths", {}).items():
        for operation in operations.values():
            responses = operation["responses"]
            responses |= {status: _error(int(status)) for status in responses if status[0] in "45"}
        document["paths"][path] = operations
    for path, routes in mounted:
        prefix = path.rstrip("/")
        if routes is None:
            document["paths"][f"{prefix}/{{path}}"] = {"parameters": [_PATH], **_undescribed({"GET"})}
            continue
        found = get_openapi(title=title, version="1", routes=list(routes))
        schemas |= found.get("components", {}).get("schemas", {})
        document["paths"] |= {prefix + route: operations for route, operations in found["paths"].items()}
        for route in routes:
            if type(route) is Route and route.include_in_schema:  # a plain Starlette route: only its methods are known
                document["paths"].setdefault(prefix + route.path, _undescribed(route.methods or {"GET"}))
    if schemas:
        document["components"] = {"schemas": schemas}
    return document


def add_predictions(document: dict[str, Any], methods: Iterable[RowsMethod], model: Model) -> None:
    """Add the routes of the methods that take rows, with the row and answer schemas of the model.

    Args:
        document: the document; modified in place.
        methods: the methods.
        model: the served model.
    """
    rows = {"type": "array", "items": _row(model.spec), "minItems": 1}
    for method in methods:
        parameters = method.parameters.model_json_schema() if method.parameters else {}
        request = {
            "type": "object",
            "properties": {
                method.parameter: {**rows, "description": "One or more rows."},
                **parameters.get("properties", {}),
            },
            "required": [method.parameter, *parameters.get("required", [])],
            "additionalProperties": False,
            "example": {method.parameter: model.metadata.data_sample},
        }
        document["paths"][method.route] = {
            "post": {
                "operationId": method.name,
                "summary": method.summary,
                "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
                "responses": {
                    "200": response(method.summary, _prediction(_answer(method, model))),
                    **{str(status): response(text, Error.model_json_schema()) for status, text in _ERRORS.items()},
                },
            }
        }


def _undescribed(methods: Iterable[str]) -> dict[str, Any]:
    described = set(methods) - {"HEAD"}
    return {method.lower(): {"responses": {"default": {"description": "Any answer."}}} for method in described}


def _answer(method: RowsMethod, model: Model) -> dict[str, Any]:
    """Return the schema of the answer for one row."""
    if method.returns is Predictions:
        return nested_schema({"type": "number"}, model.prediction_shape)
    if method.returns is Labels:
        name = {"type": "string", "enum": sorted(set(model.labels.values()))}
        return {"type": "array", "items": name, "uniqueItems": True} if model.task is Task.MULTILABEL else name
    return {}


def _error(status: int) -> dict[str, Any]:
    return response(_ERRORS.get(status, "The request failed."), Error.model_json_schema())


def response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a JSON response."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _prediction(one: dict[str, Any]) -> dict[str, Any]:
    several = {"type": "array", "items": one, "minItems": 2}
    return {"type": "object", "properties": {"prediction": {"anyOf": [one, several]}}, "required": ["prediction"]}


def _row(spec: RowSpec | ColumnsSpec) -> dict[str, Any]:
    if isinstance(spec, ColumnsSpec):
        values = {name: _values(value) for name, value in spec.values.items()}
        return {"anyOf": [object_schema(values), tuple_schema(list(values.values()))]}
    if not spec.names:
        return _values(spec)
    return {"anyOf": [_values(spec), object_schema(dict.fromkeys(spec.names, value_schema(spec)))]}


def object_schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """Return the schema of an object with these properties, of which the named ones, or else all, are required."""
    names = list(required or properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def tuple_schema(values: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of an array with exactly these values."""
    return {"type": "array", "prefixItems": values, "minItems": len(values), "maxItems": len(values)}


def _values(spec: RowSpec) -> dict[str, Any]:
    return nested_schema(value_schema(spec), spec.row_shape, spec.max_length)


def nested_schema(
    schema: dict[str, Any], shape: tuple[int | None, ...], max_length: int | None = None
) -> dict[str, Any]:
    """Return the schema of nested arrays with these lengths; None is any length up to the maximum."""
    for length in reversed(shape):
        limit = length or max_length
        schema = {"type": "array", "items": schema, "minItems": length or 1} | ({"maxItems": limit} if limit else {})
    return schema


def value_schema(spec: RowSpec) -> dict[str, Any]:
    """Return the schema of one value."""
    if spec.is_text:
        return {"type": "string"}
    smallest, largest = spec.limits
    number = {"type": "number" if spec.dtype.kind == "f" else "integer", "minimum": smallest, "maximum": largest}
    return {"anyOf": [{"type": "boolean"}, number]} if spec.takes_booleans else number
