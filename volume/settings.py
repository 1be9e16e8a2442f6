"""Settings from environment variables: the three that loader and service have in common, and the names of all.

They are msgspec structs because a pydantic import takes longer than a whole local load may.
"""

from collections.abc import Mapping
from enum import EnumType
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import msgspec
from msgspec import Meta, Struct

from volume.log import LogLevel

# The settings of both programs, which share one environment in a clone: each refuses what is nearly one of these.
NAMES = frozenset({
    "MODEL_FILEPATH", "LABEL_FILEPATH", "LOG_LEVEL",
    # The loader's.
    "MODEL_URI", "LABEL_URI", "MODEL_VERSION", "LABEL_VERSION", "MODEL_SHA256", "LABEL_SHA256",
    "GCS_BUCKET", "GCS_MODEL_BLOB", "GCS_LABEL_BLOB", "GCS_MODEL_GENERATION", "GCS_LABEL_GENERATION",
    "GCS_ANONYMOUS", "GCS_ENDPOINT", "STORAGE_EMULATOR_HOST",
    "S3_ANONYMOUS", "HTTPS_TOKEN",
    "USE_LOCAL_MODEL", "LOCAL_MODEL_FILEPATH", "LOCAL_LABEL_FILEPATH",
    "LOAD_TIMEOUT_SECONDS", "STALL_TIMEOUT_SECONDS", "DOWNLOAD_WORKERS", "DRY_RUN", "TERMINATION_LOG",
    # The service's.
    "MAX_BODY_BYTES", "MAX_REQUESTS_IN_FLIGHT", "REQUEST_TIMEOUT_SECONDS", "START_TIMEOUT_SECONDS",
    "KEEP_ALIVE_SECONDS", "MAX_IDLE_CONNECTIONS", "ACCESS_LOG_SAMPLE_RATE", "OTEL_EXPORTER_OTLP_ENDPOINT",
    "INTRA_OP_NUM_THREADS", "MAX_ROW_LENGTH", "MODEL_OUTPUT",
})  # fmt: skip
# Variables of other programs that are one slip away from a setting.
OTHERS = frozenset({"LOGLEVEL"})


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
            SettingsError: a value is of the wrong type or out of range, the values do not go together, or a variable
                is nearly the name of a setting.
        """
        refuse_slips(environment)
        values = {
            field.name: _convert(field.name.upper(), environment[field.name.upper()], field.type)
            for field in msgspec.structs.fields(cls)
            if environment.get(field.name.upper())
        }
        try:
            return cls(**values)
        except ValueError as error:
            raise SettingsError(str(error)) from None


def refuse_slips(environment: Mapping[str, str]) -> None:
    """Raise `SettingsError` if a variable that is set is one slip away from a setting, since it would be ignored."""
    for found in sorted(name for name, value in environment.items() if value and name not in NAMES | OTHERS):
        for meant in sorted(NAMES):
            if is_slip(found, meant):
                raise SettingsError(f"{found} is set, but is not a setting: expected {meant}, or another name")


def is_slip(one: str, other: str) -> bool:
    """Return whether two different names are one edit of a letter, or one swap of neighbours, apart."""
    shorter, longer = sorted((one, other), key=len)
    start = next((index for index, letter in enumerate(shorter) if letter != longer[index]), len(shorter))
    short, long = shorter[start:], longer[start:]
    if len(short) == len(long):
        return short[1:] == long[1:] or (short[:2] == long[1::-1] and short[2:] == long[2:])
    return short == long[1:]


def _convert(variable: str, text: str, kind: Any) -> Any:  # noqa: ANN401 (a field may be of any type)
    try:
        return msgspec.convert(text, kind, strict=False, dec_hook=lambda custom, value: custom(value))
    except msgspec.ValidationError as error:
        problem = str(error)
        for choices in get_args(kind):
            if isinstance(choices, EnumType):
                problem = f"expected one of {', '.join(choices)}"
        raise SettingsError(f"{variable} is {text!r}: {problem[0].lower()}{problem[1:]}") from None
