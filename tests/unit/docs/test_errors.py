"""Every message that stops a load is in the runbook, and the runbook has no others."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS
from tests.support.processes import ROOT

RUNBOOK = DOCUMENTS["docs/operations.md"]
# Functions and classes whose first argument is a message, or a part of one.
CALLS = re.compile(r"\w+Error|translate_os_errors|Backoff|kind|missing|_exit|exit|fail|_refusal")
RETURNS = {"web.py", "settings.py"}  # modules where functions return parts of messages
_OF_THE_VOLUME = ("onnx_file.py", "settings.py")
_CARRIES = 2  # words: a template with fewer only wraps another message
_RECOGNISABLE = 4


def strings(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the outermost strings under a node; the first one of a sum."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
    elif isinstance(node, ast.BinOp):
        yield from strings(node.left)
    elif not isinstance(node, ast.Call):
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def template(node: ast.AST) -> str:
    """Return a string with `…` for its placeholders."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def messages(path: Path) -> Iterator[str]:
    """Yield the templates of a module's messages."""
    tree = ast.parse(path.read_text())
    assigned = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        found: ast.AST | None = None
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if CALLS.fullmatch(name):
                found = node.args[len(node.args) > 1 and is_code(node.args[0])]
                found = assigned.get(found.id) if isinstance(found, ast.Name) else found
        elif isinstance(node, ast.Return) and path.name in RETURNS:
            found = node.value
        if found is not None:
            yield from map(template, strings(found))


def is_code(node: ast.AST) -> bool:
    """Return whether an argument is an error's code, which its message follows."""
    return (isinstance(node, ast.Attribute) and node.attr == "code") or (
        isinstance(node, ast.Constant) and bool(re.fullmatch(r"[a-z]+(-[a-z]+)*", str(node.value)))
    )


def words(text: str) -> int:
    return len(re.findall(r"[A-Za-z_'-]{2,}", text))


def shows(fragment: str, message: str) -> bool:
    """Return whether a fragment of the runbook is a sufficient part of the message."""
    pattern = ".*".join(map(re.escape, fragment.split("…")))
    return bool(re.search(pattern, message)) and words(fragment) >= min(_RECOGNISABLE, words(message))


MESSAGES = {
    message: path.relative_to(ROOT)
    for path in [*sorted((ROOT / "loader").rglob("*.py")), *(ROOT / "volume" / name for name in _OF_THE_VOLUME)]
    for message in messages(path)
}
LOADER = RUNBOOK.partition("### Loader error codes")[0]
FRAGMENTS = re.findall(r"^\| `([^`]+)` \|", LOADER, re.MULTILINE)


@pytest.mark.parametrize("message", [message for message in MESSAGES if words(message) >= _CARRIES])
def test_message_is_in_the_runbook(message: str) -> None:
    assert any(shows(fragment, message) for fragment in FRAGMENTS), f"{MESSAGES[message]}: {message}"


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_runbook_has_no_other(fragment: str) -> None:
    assert any(shows(fragment, message) for message in MESSAGES)
