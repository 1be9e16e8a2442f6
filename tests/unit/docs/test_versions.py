"""The version is the same everywhere."""

import re
import tomllib

import loader
from tests.support.documents import DOCUMENTS
from tests.support.processes import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_loader_has_it() -> None:
    assert loader.__version__ == VERSION


def test_lock_has_it() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert [package["version"] for package in packages if package["name"] == "model-load-server"] == [VERSION]


def test_manifests_have_it() -> None:
    for path in [*(ROOT / "k8s/overlays").rglob("settings.env"), ROOT / "k8s/kserve/settings.env"]:
        images = re.findall(
            r"^#?(SERVER|LOADER)_IMAGE=.*/model-load-(server|loader):(.*)$", path.read_text(), re.MULTILINE
        )
        assert images == [("SERVER", "server", VERSION), ("LOADER", "loader", VERSION)]


def test_changelog_begins_with_it() -> None:
    versions = re.findall(r"^## \[(.+)\] - \d{4}-\d\d-\d\d$", DOCUMENTS["CHANGELOG.md"], re.MULTILINE)
    assert versions[0] == VERSION
    assert sorted(versions, key=lambda version: [*map(int, version.split("."))], reverse=True) == versions


def test_documents_have_it() -> None:
    for document, text in DOCUMENTS.items():
        if document != "CHANGELOG.md":
            found = re.findall(
                r"\b(?:model-load-(?:server|loader):|--annotate v|origin v|Version |バージョンは )(\d+(?:\.\w+)*)", text
            )
            assert set(found) <= {VERSION}, document
