"""CONTRIBUTING.md against the code that it describes."""

import inspect
import re

from loader.sources.base import Source
from tests.support.documents import prose

CONTRIBUTING = " ".join(prose("CONTRIBUTING.md").split())


def shown(annotation: object) -> str:
    """Return a type without the modules of its names."""
    return re.sub(r"\w+\.", "", inspect.formatannotation(annotation))


def test_source_is_described_whole() -> None:
    for name, member in vars(Source).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            assert f"`{name}: {member.fget.__annotations__['return'].__name__}`" in CONTRIBUTING
        else:
            signature = inspect.signature(member)
            parameters = [
                f"{parameter.name}: {shown(parameter.annotation)}"
                for parameter in list(signature.parameters.values())[1:]
            ]
            returned = shown(signature.return_annotation)
            assert f"`{name}({', '.join(parameters)}) -> {returned}`" in CONTRIBUTING
