"""Which names below a prefix are loaded."""

import pytest

from loader.errors import IntegrityError
from loader.settings import Settings
from loader.sources.listing import Listing

URI = "gs://b/m/"


def listing(**settings: str) -> Listing:
    return Listing(URI, Settings.read({"MODEL_URI": URI, **settings}))


@pytest.mark.parametrize("name", ["model.onnx", "a/1/model.onnx", "a/receipt.json", "a b/c:d*e", "1/ü", "empty"])
def test_files_are_included(name: str) -> None:
    assert listing().includes(name, 0)


@pytest.mark.parametrize("name", ["", "folder/", ".hidden", ".git/config", "a/.keep", "receipt.json"])
def test_some_names_are_ignored(name: str) -> None:
    assert not listing(MAX_FILES="1").includes(name, 0)


@pytest.mark.parametrize("name", ["../a", "a/../b", "a//b", "/etc/passwd", "./a", "a/./b", "..", "a\\b", "a\0", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="expected names that are paths inside the directory") as refusal:
        listing().includes(name, 1)
    assert refusal.value.code == "name-refused"


def test_a_folder_with_content_is_refused() -> None:
    with pytest.raises(IntegrityError):
        listing().includes("folder/", 1)


def test_files_and_bytes_are_counted() -> None:
    counted = listing(MAX_FILES="2", MAX_TOTAL_BYTES="10")
    assert counted.includes("a", 5)
    assert counted.includes("b", 5)
    with pytest.raises(IntegrityError, match="has more than 2 files or 10 bytes"):
        counted.includes("c", 0)
    with pytest.raises(IntegrityError, match="or 10 bytes"):
        listing(MAX_TOTAL_BYTES="10").includes("a", 11)
