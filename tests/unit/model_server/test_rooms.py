"""Imports follow the order of the packages, and each library's private APIs are used in one module only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

ORDER = ["adapters", "http", "protocols", "prediction", "model"]
MODULES = sorted((ROOT / "model_server").rglob("*.py"))
PRIVATE = {
    "model_server/adapters/bento.py": ("_bentoml_impl", "_bentoml_sdk", "bentoml._internal", "circus"),
    "model_server/adapters/uvicorn.py": ("uvicorn",),
}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a module imports, at any level of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""


def package(module: str) -> str:
    """Return the server's package that contains a module; empty if none does."""
    parts = module.split(".")
    return parts[1] if parts[0] == "model_server" and len(parts) > 2 else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_order(path: Path) -> None:
    own = package(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for other in filter(None, map(package, imported(path))):
        if own == "observability":
            assert other == own
        elif other == "observability":
            assert own in ("adapters", "http", ""), "the model must not import logs and metrics"
        elif own:
            assert ORDER.index(other) >= ORDER.index(own)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_apis_are_used_in_one_module(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for owner, prefixes in PRIVATE.items():
        if name != owner:
            assert not [module for module in imported(path) if module.startswith(prefixes)]


@pytest.mark.parametrize("name", ["model", "prediction"])
def test_the_model_does_not_import_http(name: str) -> None:
    for path in (ROOT / "model_server" / name).glob("*.py"):
        forbidden = ("http", "starlette", "fastapi", "bentoml", "pydantic", "httptools")
        assert not [module for module in imported(path) if module.split(".")[0] in forbidden], path
