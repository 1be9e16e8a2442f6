"""Reads manifests from stdin with the Python models of KServe, which must know every field; prints their names.

Runs in an environment with the `kserve` package.
"""

import json
import re
import sys
from typing import Any

import kserve.models
import kubernetes.client


def read(kind: str, value: Any) -> Any:
    """Return the value as a model of this kind; raise an error for a field that the kind does not have."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return [read(inner[1], element) for element in value]
    if model := getattr(kserve.models, kind, None):
        names = {field: name for name, field in model.attribute_map.items()}
        return model(**{names[field]: read(model.openapi_types[names[field]], value[field]) for field in value})
    if model := getattr(kubernetes.client, kind, None):
        made = model.from_dict(value)
        assert made.model_dump(by_alias=True, exclude_none=True) == value, f"{kind} lacks a field of {value}"
        return made
    return value


for manifest in json.load(sys.stdin):
    made = read(manifest["apiVersion"].rpartition("/")[2].capitalize() + manifest["kind"], manifest)
    print(made.kind, made.metadata.name)
