"""Every error of the service and of the loader has a code, and the runbook has a row for each and for no other."""

import ast
import re
from collections.abc import Iterator

from loader import errors
from tests.support.documents import DOCUMENTS
from tests.support.processes import ROOT

RUNBOOK = DOCUMENTS["docs/operations.md"]
# Which argument of a call is the code.
POSITIONS = {
    "StartError": 0,
    "_refused": 0,
    "SlowModelError": 0,
    "BodyError": 0,
    "log_failure": 1,
    "unavailable": 1,
    "RequestError": 3,
}
CODE = re.compile(r"[a-z]+(-[a-z]+)*")


def loader_codes() -> Iterator[str]:
    """Yield the codes in the loader's source: the first arguments of its errors."""
    for path in sorted((ROOT / "loader").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                code = node.args[0]
                if (name.endswith("Error") and name in vars(errors)) or name in ("TransientError", "missing"):
                    assert isinstance(code, ast.Constant), f"{path}:{node.lineno}"
                    yield str(code.value)
    yield from (code for _, code in (*errors._BY_ERRNO.values(), errors._OTHER))


def codes() -> Iterator[str]:
    """Yield the codes in the service's source."""
    for path in sorted((ROOT / "model_server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if name in POSITIONS:
                given += node.args[POSITIONS[name] : POSITIONS[name] + 1]
            elif name == "getattr" and len(node.args) == 3:
                given += node.args[2:]
            for value in given:
                if isinstance(value, ast.Constant) and value.value:
                    assert CODE.fullmatch(str(value.value)), f"{path}:{node.lineno}"
                    yield str(value.value)


def rows(heading: str, column: int) -> list[str]:
    """Return the codes in a table's column."""
    section = RUNBOOK.partition(f"### {heading}\n")[2].partition("\n#")[0]
    cells = [line.split("|")[column] for line in section.splitlines() if line.startswith("| ")][1:]
    return [code for cell in cells for code in re.findall(r"`([a-z-]+)`", cell)]


def test_the_runbook_has_every_code_of_the_loader_once() -> None:
    found = set(loader_codes())
    assert all(CODE.fullmatch(code) for code in found)
    assert sorted(rows("Loader error codes", 1)) == sorted(found)


def test_the_runbook_has_every_code_once() -> None:
    listed = [*rows("Service errors at start", 1), *rows("Service errors to a client", 2)]
    assert sorted(listed) == sorted(set(codes()))
