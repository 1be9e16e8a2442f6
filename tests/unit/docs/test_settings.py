"""docs/settings.md compared with the settings classes."""

import re
from enum import Enum

import msgspec
import pytest

from loader.settings import SHIPPED_MODEL
from loader.settings import Settings as LoaderSettings
from model_server.settings import Settings as ServiceSettings
from tests.support.documents import DOCUMENTS, SETTING
from tests.support.processes import ROOT

ROWS = SETTING.findall(DOCUMENTS["docs/settings.md"])
DOCUMENTED = {name: default for name, _, default, _ in ROWS}
PROGRAMS = {name: set(programs.split(", ")) for name, programs, _, _ in ROWS}
CLASSES: dict[str, type[msgspec.Struct]] = {"loader": LoaderSettings, "service": ServiceSettings}
FIELDS = {
    (program, field.name.upper()): field for program, kind in CLASSES.items() for field in msgspec.structs.fields(kind)
}


@pytest.mark.parametrize(("program", "name"), FIELDS)
def test_setting_is_documented(program: str, name: str) -> None:
    assert name in PROGRAMS, f"docs/settings.md has no row for {name} of the {program}"
    assert program in PROGRAMS[name], f"the row of {name} in docs/settings.md does not name the {program}"


def test_documented_settings_exist() -> None:
    documented = {(program, name) for name, programs in PROGRAMS.items() for program in programs}
    assert documented - FIELDS.keys() == set(), "docs/settings.md has rows for settings that do not exist"


def test_no_setting_is_documented_twice() -> None:
    assert len(DOCUMENTED) == len(ROWS)


@pytest.mark.parametrize(("program", "name"), FIELDS)
def test_default_is_documented(program: str, name: str) -> None:
    default = FIELDS[program, name].default
    if default is None or default == "":  # there is none, or it is described in words
        assert not re.fullmatch(r"`[^`]*`", DOCUMENTED[name]), f"{name} has no fixed default"
    else:
        assert DOCUMENTED[name].startswith(f"`{shown(default)}`"), f"the default of {name} is {shown(default)}"


def shown(default: object) -> str:
    """Return a default as it is written in the environment."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Enum):
        return str(default.value)
    if default == SHIPPED_MODEL:
        return str(SHIPPED_MODEL.relative_to(ROOT))
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_variables_in_the_manifests_are_documented() -> None:
    images = {"SERVER_IMAGE", "LOADER_IMAGE"}  # for kustomize
    for path in (*(ROOT / "k8s").rglob("settings.env"), *(ROOT / "k8s/kserve").glob("*.yml")):
        for words in re.findall(r"^(\w+)=|\{name: ([A-Z0-9_]+),", path.read_text(), re.MULTILINE):
            name = "".join(words)
            assert name in DOCUMENTED.keys() | images, f"{path.relative_to(ROOT)}: {name}"
