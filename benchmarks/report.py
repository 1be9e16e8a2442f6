"""Writes the figures of a run to `results/` and to the tables of `README.md`."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def machine() -> str:
    """Return a description of the machine."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write every measurement to `results/NAME.json`, one per line."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(_json({"machine": machine(), **results}) + "\n")


def _json(value: Any) -> str:  # noqa: ANN401 (a JSON value)
    """Return a value as JSON, with one line per innermost object."""
    if not isinstance(value, Mapping | list):
        return json.dumps(value)
    if isinstance(value, Mapping):
        brackets, parts = "{}", [f"{json.dumps(key)}: {_json(item)}" for key, item in value.items()]
        items: Iterable[Any] = value.values()
    else:
        brackets, parts = "[]", [_json(item) for item in value]
        items = value
    if any(item and isinstance(item, Mapping | list) for item in items):
        return brackets[0] + "\n" + ",\n".join(parts) + "\n" + brackets[1]
    return brackets[0] + ", ".join(parts) + brackets[1]


def write_section(name: str, text: str) -> None:
    """Replace the text between the marks `<!-- name -->` and `<!-- /name -->` of README.md."""
    readme = HERE / "README.md"
    before, start, rest = readme.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->\n")
    if not end:
        raise ValueError(f"{readme} has no marks <!-- {name} --> and <!-- /{name} -->")
    readme.write_text(f"{before}{start}\n{text.strip()}\n\n{end}{after}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. The first column is left-aligned, the others are right-aligned."""
    lines = [" | ".join(head), "|".join(["---", *["---:"] * (len(head) - 1)]), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" if number != 1 else f"|{line}|" for number, line in enumerate(lines))
