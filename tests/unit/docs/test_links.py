"""Links between the documents have existing targets."""

import re

import pytest

from tests.support.clone import files
from tests.support.documents import DOCUMENTS, LINK, prose
from tests.support.processes import ROOT


def anchors(document: str) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        same = len([anchor for anchor in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", anchor)])
        found.add(f"{slug}-{same}" if same else slug)
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_link_targets_exist(document: str) -> None:
    there = {(ROOT / name).resolve() for name in files()}
    there |= {directory for path in there for directory in path.parents if directory.is_relative_to(ROOT)}
    for link in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent.joinpath(path).resolve() if path else ROOT / document
        assert target in there, link
        assert not anchor or anchor in anchors(str(target.relative_to(ROOT))), link


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.startswith("docs/")])
def test_readme_links_to_every_document(document: str) -> None:
    for readme in {"README.md", "README.ja.md"} & set(DOCUMENTS):
        assert f"({document})" in DOCUMENTS[readme]
