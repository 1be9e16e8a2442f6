"""The form fields on the model page."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import orjson

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec

_MAX_FIELDS = 64  # a row with more values is entered as JSON
_MAX_CHOICES = 500


def make_fields(
    spec: RowSpec | ColumnsSpec,
    names: Sequence[str],
    sample: Any,  # noqa: ANN401 (JSON)
    categories: Mapping[str, Sequence[str | int]],
) -> list[dict[str, Any]]:
    """Return a form field for each value of a row; empty if the row is entered as JSON.

    Args:
        spec: types and shapes of the rows.
        names: names of the values of a row; may be empty.
        sample: a row as JSON values, for the initial values of the fields.
        categories: the values that the model's encoders know, by input.

    Returns:
        For each field its `name` (or None), `kind`, `type`, `limits`, `expected`, `value` and, for a choice, `choices`.
        Values are JSON strings because a JavaScript number would round a large integer.
    """
    if isinstance(spec, ColumnsSpec):
        if len(spec.values) > _MAX_FIELDS:
            return []
        return [_field(value, name, sample[name], categories.get(name, ())) for name, value in spec.values.items()]
    if len(spec.row_shape) > 1 or not 0 < spec.row_size <= _MAX_FIELDS:
        return []
    values = sample if spec.row_shape else [sample]
    listed = next(iter(categories.values()), ())
    return [_field(RowSpec(spec.dtype, ()), name, value, listed) for name, value in zip_longest(names, values)]


def _field(spec: RowSpec, name: str | None, value: object, categories: Sequence[str | int]) -> dict[str, Any]:
    choices = [_json(category) for category in dict.fromkeys([*categories, *([value] if categories else [])])]
    field = {
        "name": name,
        "kind": "choice" if 0 < len(choices) <= _MAX_CHOICES else _kind(spec),
        "type": spec.type_name,
        "limits": list(map(str, spec.limits)),
        "expected": spec.expected,
        "value": _json(value),
    }
    return {**field, "choices": choices} if field["kind"] == "choice" else field


def _kind(spec: RowSpec) -> str:
    if spec.row_shape:
        return "json"
    if spec.is_text:
        return "text"
    return {"f": "number", "b": "box"}.get(spec.dtype.kind, "whole")


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
