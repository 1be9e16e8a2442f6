"""Imports run one way, and private names of others are in one place each."""

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
    """Yield the modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""


def package(module: str) -> str:
    """Return the package of the server that a module is in; empty if it is in none."""
    parts = module.split(".")
    return parts[1] if parts[0] == "model_server" and len(parts) > 2 else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = package(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for other in filter(None, map(package, imported(path))):
        if room == "observability":
            assert other == room
        elif other == "observability":
            assert room in ("adapters", "http", ""), "the model knows nothing of logs and metrics"
        elif room:
            assert ORDER.index(other) >= ORDER.index(room)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_are_in_one_place(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for owner, prefixes in PRIVATE.items():
        if name != owner:
            assert not [module for module in imported(path) if module.startswith(prefixes)]


@pytest.mark.parametrize("room", ["model", "prediction"])
def test_the_model_knows_no_http(room: str) -> None:
    for path in (ROOT / "model_server" / room).glob("*.py"):
        forbidden = ("http", "starlette", "fastapi", "bentoml", "pydantic", "httptools")
        assert not [module for module in imported(path) if module.split(".")[0] in forbidden], path
