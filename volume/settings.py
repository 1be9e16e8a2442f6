"""Settings from environment variables, and the three that the loader and the service have in common.

They are msgspec structs because a pydantic import takes longer than a whole local load may.
"""

from collections.abc import Mapping
from enum import EnumType
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import msgspec
from msgspec import Meta, Struct

from volume.log import LogLevel


class SettingsError(ValueError):
    """A setting that cannot be used; its message names the variable, what was found and what was expected."""


class VolumeSettings(Struct, frozen=True, kw_only=True):
    """Where the model and its labels stand, and what is logged; each field is an environment variable in capitals."""

    model_filepath: Annotated[Path, Meta(description="the ONNX model in the volume")] = Path("/workdir/model.onnx")
    label_filepath: Annotated[Path, Meta(description="its label file in the volume")] = Path("/workdir/label.json")
    log_level: Annotated[LogLevel, Meta(description="the least level that is logged")] = LogLevel.INFO

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Return the settings that the environment gives; an empty variable counts as unset.

        Raises:
            SettingsError: a value is of the wrong type or out of range, or the values do not go together.
        """
        values = {
            field.name: _convert(field.name.upper(), environment[field.name.upper()], field.type)
            for field in msgspec.structs.fields(cls)
            if environment.get(field.name.upper())
        }
        try:
            return cls(**values)
        except ValueError as error:
            raise SettingsError(str(error)) from None


def _convert(variable: str, text: str, kind: Any) -> Any:  # noqa: ANN401 (a field may be of any type)
    try:
        return msgspec.convert(text, kind, strict=False, dec_hook=lambda custom, value: custom(value))
    except msgspec.ValidationError as error:
        problem = str(error)
        for choices in get_args(kind):
            if isinstance(choices, EnumType):
                problem = f"expected one of {', '.join(choices)}"
        raise SettingsError(f"{variable} is {text!r}: {problem[0].lower()}{problem[1:]}") from None
