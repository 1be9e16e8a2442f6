"""README.md compared with docs/settings.md, and README.ja.md with README.md."""

import re

from tests.support.documents import DOCUMENTS, LINK, SETTING, blocks, prose

LINES = 150


def test_readme_is_short() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= LINES


def test_settings_exist() -> None:
    english, japanese = (re.findall(r"`([A-Z]+_[A-Z_0-9]+)`", prose(name)) for name in ("README.md", "README.ja.md"))
    assert {*english} == {*japanese} != set()
    assert {*english} <= {name for name, *_ in SETTING.findall(DOCUMENTS["docs/settings.md"])}


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
