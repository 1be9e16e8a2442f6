"""The README's tables, and that README.ja.md says the same."""

import re

from loader.settings import Settings as LoaderSettings
from model_server.settings import Settings as ServiceSettings
from tests.support.documents import DOCUMENTS, LINK, blocks, prose

README = DOCUMENTS["README.md"]
JAPANESE = DOCUMENTS["README.ja.md"]
ROW = re.compile(r"^\| `([A-Z_0-9]+)` \| ([a-z, ]+) \| ?(.*?) ?\|", re.MULTILINE)


def test_settings_table_is_whole() -> None:
    fields: dict[str, set[str]] = {}
    for owner, settings in (("loader", LoaderSettings), ("service", ServiceSettings)):
        for name in settings.__struct_fields__:
            fields.setdefault(name.upper(), set()).add(owner)
    assert {name: set(owners.split(", ")) for name, owners, _ in ROW.findall(README)} == fields


def test_settings_are_the_same() -> None:
    english, japanese = ROW.findall(README), ROW.findall(JAPANESE)
    assert [row[:2] for row in english] == [row[:2] for row in japanese]
    for (name, _, default), (_, _, translated) in zip(english, japanese, strict=True):
        assert re.findall(r"`[^`]+`", default) == re.findall(r"`[^`]+`", translated), name
        assert bool(default) == bool(translated), name


def test_blocks_are_the_same() -> None:
    english, japanese = (
        [(block.info, block.text) for block in blocks() if block.document == name]
        for name in ("README.md", "README.ja.md")
    )
    assert english == japanese


def test_structure_is_the_same() -> None:
    english, japanese = prose("README.md"), prose("README.ja.md")
    for pattern in (r"^#+ |^\||^- |^!\[", r"(?<![\w`])/[a-z/]+(?=`)"):
        found = [re.findall(pattern, text, re.MULTILINE) for text in (english, japanese)]
        assert sorted(found[0]) == sorted(found[1])
    links = [{link for link in LINK.findall(text) if "README" not in link} for text in (english, japanese)]
    assert links[0] == links[1]


def test_figures_are_the_same() -> None:
    found = [re.findall(r"(\d+) ?us", prose(name)) for name in ("README.md", "README.ja.md")]
    assert found[0] == found[1] != []
