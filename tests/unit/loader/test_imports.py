"""Imports of the loader run one way, wherever in a module they are written."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from loader.settings import SCHEMES
from loader.sources.schemes import SOURCES
from tests.support.processes import ROOT

# From top to bottom; a room imports from itself and from those after it.
ROOMS = ["job", "release", "sources", "transfer", "verification", "base", "ground"]
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


def room(module: str) -> str:
    """Return the room that a module is in."""
    if module in ("loader.__main__", "loader.job"):
        return "job"
    if module == "loader.sources.base":
        return "base"
    return "ground" if module in GROUND else module.split(".")[1]


def test_there_is_no_ring() -> None:
    graph = {name: {*imported(path)} - {name} for name, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_rooms_are_in_order(module: str) -> None:
    for other in imported(MODULES[module]):
        if not other.endswith(("loader", "loader.sources")):
            assert ROOMS.index(room(other)) >= ROOMS.index(room(module)), other


def test_every_scheme_has_its_source() -> None:
    assert sorted(SCHEMES) == sorted(SOURCES)
