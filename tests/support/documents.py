"""The documents: all Markdown files of the repository, and their code blocks.

The info string of a block determines how it is tested:

- `console`: the commands, after `$ `, are run and must print the lines below them, where `…` matches anything;
- `console cluster`: the commands need a cluster, a cloud or a container engine, and are not run;
- `python`: the block is run as a doctest;
- `python export`: the block exports a model, which is served; `python export nightly`: the same, with a large library;
- one of `DATA`: the block is not code.
"""

import re
import textwrap
from dataclasses import dataclass

from tests.support.clone import files
from tests.support.processes import ROOT

URL = "http://127.0.0.1:3000"
LINK = re.compile(r"\]\(([^)\s]+)\)")
EXPORT = "python export"
EXPORT_NIGHTLY = "python export nightly"
# A row of a table of settings: variable, programs, default, meaning.
SETTING = re.compile(r"^\| `([A-Z_0-9]+)` \| ([a-z, ]+) \| ?(.*?) ?\| (.*) \|$", re.MULTILINE)
DATA = {"ini", "json", "mermaid", "text", "yaml"}
_FENCE = re.compile(r"^( *)```([^`\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: the path of its document.
        line: the line of its opening fence.
        info: the info string after its opening fence.
        text: the content, without indentation.
    """

    document: str
    line: int
    info: str
    text: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a console block, each with the output below it."""
        return _COMMAND.findall(self.text)

    @property
    def serves(self) -> bool:
        """Whether the last command is a server, which runs until it is stopped."""
        return self.info == "console" and bool(re.search(r"\bserve\b(?!.*&)", self.commands[-1][0]))

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


DOCUMENTS = {name: (ROOT / name).read_text() for name in files() if name.endswith(".md")}


def blocks(info: str | None = None) -> list[Block]:
    """Return the blocks of all documents, optionally only those with this info string."""
    found = [
        Block(name, text.count("\n", 0, match.start()) + 1, match[2], textwrap.dedent(match[3]))
        for name, text in DOCUMENTS.items()
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if info in (None, block.info)]


def prose(document: str) -> str:
    """Return a document without its blocks."""
    return _FENCE.sub("", DOCUMENTS[document])
