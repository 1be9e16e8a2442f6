"""Settings from the environment, and the messages for invalid ones."""

from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from loader.settings import Settings as LoaderSettings
from model_server.settings import Settings as ServiceSettings
from volume.log import LogLevel
from volume.settings import NAMES, OTHERS, SettingsError, VolumeSettings, is_typo


class Settings(VolumeSettings, frozen=True, kw_only=True):
    """Settings of each type."""

    flag: bool = False
    number: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[float, Meta(gt=0, le=10)] = 1

    def __post_init__(self) -> None:
        """Refuse inconsistent values."""
        if self.flag and self.number is None:
            raise ValueError("FLAG needs NUMBER")


def test_unset_and_empty_variables_have_defaults() -> None:
    assert Settings.read({"NUMBER": "", "OTHER": "x"}) == Settings()
    assert Settings().model_filepath == Path("/workdir/model.onnx")
    assert Settings().log_level == "info"


def test_values_are_converted_to_their_types() -> None:
    settings = Settings.read({"FLAG": "true", "NUMBER": "5", "SECONDS": "2.5", "MODEL_FILEPATH": "a/b"})
    assert settings == Settings(flag=True, number=5, seconds=2.5, model_filepath=Path("a/b"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FLAG", "perhaps"),
        ("NUMBER", "0"),
        ("NUMBER", "many"),
        ("SECONDS", "nan"),
        ("SECONDS", "inf"),
        ("SECONDS", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_named_with_the_expected_one(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable} is '{value}': expected"):
        Settings.read({variable: value})


@pytest.mark.parametrize("name", ["warning", "WARNING", "Warning"])
def test_a_level_is_case_insensitive(name: str) -> None:
    assert Settings.read({"LOG_LEVEL": name}).log_level is LogLevel.WARNING


def test_all_names_are_listed() -> None:
    fields = {*LoaderSettings.__struct_fields__, *ServiceSettings.__struct_fields__}
    assert {field.upper() for field in fields} == NAMES


@pytest.mark.parametrize(
    ("found", "meant"),
    [
        ("MODEL_SHA265", "MODEL_SHA256"),
        ("MODEL_SHA25", "MODEL_SHA256"),
        ("MODEL_SHA2566", "MODEL_SHA256"),
        ("MODEL-URI", "MODEL_URI"),
        ("MODEL_URL", "MODEL_URI"),
        ("OAD_TIMEOUT_SECONDS", "LOAD_TIMEOUT_SECONDS"),
        ("MAX_BODY_BYTE", "MAX_BODY_BYTES"),
    ],
)
def test_a_misspelt_setting_is_refused(found: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"{found} is not a setting, but looks like {meant}"):
        Settings.read({found: "x"})
    assert Settings.read({found: ""}) == Settings()


def test_names_of_other_programs_are_not_refused() -> None:
    assert Settings.read({"LOGLEVEL": "x", "MODEL_SHA652": "x", "MODEL_NAME": "x", "": "x"}) == Settings()
    assert all(any(is_typo(other, name) for name in NAMES) for other in OTHERS)


def test_no_setting_is_one_edit_away_from_another() -> None:
    assert not [(one, other) for one in NAMES for other in NAMES if one != other and is_typo(one, other)]


def test_inconsistent_values_are_refused() -> None:
    with pytest.raises(SettingsError, match="FLAG needs NUMBER"):
        Settings.read({"FLAG": "true"})
