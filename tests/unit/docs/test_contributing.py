"""CONTRIBUTING.md compared with the repository."""

import inspect
import re

from loader.sources.base import Source
from tests.support.clone import files
from tests.support.documents import prose

CONTRIBUTING = " ".join(prose("CONTRIBUTING.md").split())


def shown(annotation: object) -> str:
    """Return a type without the modules of its names."""
    return re.sub(r"\w+\.", "", inspect.formatannotation(annotation))


def test_top_of_the_repository_is_explained() -> None:
    layout = prose("CONTRIBUTING.md").partition("## Repository layout\n")[2].partition("\n## ")[0]
    explained = {
        path for row in re.findall(r"^\| (`.*?) \|", layout, re.MULTILINE) for path in row.strip("`").split("`, `")
    }
    top = {f"{first}/" if rest else first for first, _, rest in (name.partition("/") for name in files())}
    missing = {entry for entry in top if not any(path.startswith(entry) for path in explained)}
    assert missing == set()


def test_every_member_of_a_source_is_described() -> None:
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
