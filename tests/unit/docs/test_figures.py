"""The figures in the documents are the measured ones."""

import re

from tests.support.documents import DOCUMENTS, prose
from tests.support.processes import ROOT

MEASURED = DOCUMENTS["benchmarks/README.md"]
PEERS = ROOT / "benchmarks" / "server" / "peers"


def rows(document: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table whose heading begins with these words."""
    table = document[document.index(f"| {heading}") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_peers_are_those_of_the_benchmark() -> None:
    measured = {name: (cpu, p99, megabytes) for name, _, _, p99, cpu, _, _, _, megabytes, _ in rows(MEASURED, "server")}
    requirements = "".join(path.read_text() for path in PEERS.glob("*.py"))
    compared = rows(DOCUMENTS["docs/choosing.md"], "server")
    assert len(compared) == 6
    for name, version, *figures in compared:
        assert measured[name] == tuple(figures), name
        assert name.startswith("this") or f'"{name.lower()}=={version}"' in requirements, name


def test_figures_were_measured() -> None:
    units = r"(?:us|ms|s|MB|times)"
    for document in ("README.md", "docs/architecture.md", "docs/choosing.md", "docs/service.md"):
        found = re.findall(rf"\b(\d+(?:\.\d+)?)(?= {units}\b)", prose(document).partition("\n## Settings")[0])
        assert found
        for figure in found:
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", MEASURED), f"{document}: {figure}"
