"""CONTRIBUTING.md against the code that it describes."""

import inspect

from loader.sources import Source
from tests.support.documents import prose

CONTRIBUTING = " ".join(prose("CONTRIBUTING.md").split())


def test_source_is_described_whole() -> None:
    for name, member in vars(Source).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            assert f"`{name}: {member.fget.__annotations__['return'].__name__}`" in CONTRIBUTING
        else:
            signature = inspect.signature(member)
            parameters = [
                f"{parameter.name}: {parameter.annotation.__name__}"
                for parameter in list(signature.parameters.values())[1:]
            ]
            returned = signature.return_annotation.__name__
            assert f"`{name}({', '.join(parameters)}) -> {returned}`" in CONTRIBUTING
