"""The loader's imports follow the layers, including imports inside functions."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from loader.settings import SCHEMES
from loader.sources.schemes import SOURCES
from tests.support.processes import ROOT

# From top to bottom; a layer imports from itself and the layers after it.
LAYERS = ["job", "release", "sources", "transfer", "verification", "base", "ground"]
GROUND = {"loader", "loader.checksums", "loader.errors", "loader.progress", "loader.settings", "loader.watchdog"}
PATHS = sorted((ROOT / "loader").rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the module's name; a package is its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PATHS}


def imported(path: Path) -> Iterator[str]:
    """Yield the loader's modules that a module imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            module = node.module or ""
            submodules = [f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}" in MODULES]
            yield from submodules or ([module] if module in MODULES else [])


def layer(module: str) -> str:
    """Return the layer of a module."""
    if module in ("loader.__main__", "loader.job"):
        return "job"
    if module == "loader.sources.base":
        return "base"
    return "ground" if module in GROUND else module.split(".")[1]


def test_there_are_no_import_cycles() -> None:
    graph = {name: {*imported(path)} - {name} for name, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_layers_are_in_order(module: str) -> None:
    for other in imported(MODULES[module]):
        if not other.endswith(("loader", "loader.sources")):
            assert LAYERS.index(layer(other)) >= LAYERS.index(layer(module)), other


def test_every_scheme_has_its_source() -> None:
    assert sorted(SCHEMES) == sorted(SOURCES)
