"""Settings from environment variables: those that the loader and the service share, and the names of all settings.

They are msgspec structs because importing pydantic would take longer than a whole local load.
"""

from collections.abc import Mapping
from enum import EnumType
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import msgspec
from msgspec import Meta, Struct

from volume.log import LogLevel

# The settings of both programs, which share one environment in a clone. A variable that is nearly one of these is
# refused.
NAMES = frozenset({
    "MODEL_FILEPATH", "LABEL_FILEPATH", "LOG_LEVEL",
    # The loader's.
    "MODEL_DIRECTORY", "MAX_FILES", "MAX_TOTAL_BYTES",
    "MODEL_URI", "LABEL_URI", "MODEL_VERSION", "LABEL_VERSION", "MODEL_SHA256", "LABEL_SHA256",
    "MODEL_SIGNATURE", "MODEL_SIGNATURE_KEY", "MODEL_SIGNATURE_CERTIFICATES", "MAX_IR_VERSION", "MAX_OPSET",
    "GCS_BUCKET", "GCS_MODEL_BLOB", "GCS_LABEL_BLOB", "GCS_MODEL_GENERATION", "GCS_LABEL_GENERATION",
    "GCS_ANONYMOUS", "GCS_ENDPOINT", "STORAGE_EMULATOR_HOST",
    "S3_ANONYMOUS", "HTTPS_TOKEN",
    "USE_LOCAL_MODEL", "LOCAL_MODEL_FILEPATH", "LOCAL_LABEL_FILEPATH",
    "LOAD_TIMEOUT_SECONDS", "STALL_TIMEOUT_SECONDS", "DOWNLOAD_WORKERS", "DRY_RUN", "TERMINATION_LOG",
    # The service's.
    "MAX_BODY_BYTES", "MAX_REQUESTS_IN_FLIGHT", "REQUEST_TIMEOUT_SECONDS", "START_TIMEOUT_SECONDS",
    "KEEP_ALIVE_SECONDS", "MAX_IDLE_CONNECTIONS", "ACCESS_LOG_SAMPLE_RATE", "PREDICTION_METRICS",
    "PREDICTION_LOG_SAMPLE_RATE", "OTEL_EXPORTER_OTLP_ENDPOINT",
    "INTRA_OP_NUM_THREADS", "MODEL_OUTPUT", "MODEL_NAME", "MAX_ROW_LENGTH", "BATCHING",
})  # fmt: skip
# Variables of other programs that are one edit away from a setting.
OTHERS = frozenset({"LOGLEVEL"})


class SettingsError(ValueError):
    """An invalid setting; the message names the variable, its value and the expected one."""


class VolumeSettings(Struct, frozen=True, kw_only=True):
    """The files in the volume and the log level; each field is an environment variable in uppercase."""

    model_filepath: Annotated[Path, Meta(description="the ONNX model in the volume")] = Path("/workdir/model.onnx")
    label_filepath: Annotated[Path, Meta(description="its label file in the volume")] = Path("/workdir/label.json")
    log_level: Annotated[LogLevel, Meta(description="the minimum level of logged events")] = LogLevel.INFO

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from the environment; an empty variable counts as unset.

        Raises:
            SettingsError: a value has the wrong type or is out of range, the values are inconsistent, or the name of a
                variable is nearly that of a setting.
        """
        reject_misspelt(environment)
        values = {
            field.name: _convert(field.name.upper(), environment[field.name.upper()], field.type)
            for field in msgspec.structs.fields(cls)
            if environment.get(field.name.upper())
        }
        try:
            return cls(**values)
        except ValueError as error:
            raise SettingsError(str(error)) from None


def reject_misspelt(environment: Mapping[str, str]) -> None:
    """Raise `SettingsError` if a set variable is one edit away from a setting: it is probably a misspelt setting."""
    for found in sorted(name for name, value in environment.items() if value and name not in NAMES | OTHERS):
        for meant in sorted(NAMES):
            if is_typo(found, meant):
                raise SettingsError(
                    f"{found} is not a setting, but looks like {meant}: correct it, or rename the variable"
                )


def is_typo(one: str, other: str) -> bool:
    """Return whether two different names differ by one edit of a letter or one swap of adjacent letters."""
    shorter, longer = sorted((one, other), key=len)
    start = next((index for index, letter in enumerate(shorter) if letter != longer[index]), len(shorter))
    short, long = shorter[start:], longer[start:]
    if len(short) == len(long):
        return short[1:] == long[1:] or (short[:2] == long[1::-1] and short[2:] == long[2:])
    return short == long[1:]


def _convert(variable: str, text: str, kind: Any) -> Any:  # noqa: ANN401 (a field can have any type)
    try:
        return msgspec.convert(text, kind, strict=False, dec_hook=lambda custom, value: custom(value))
    except msgspec.ValidationError as error:
        problem = str(error)
        for choices in get_args(kind):
            if isinstance(choices, EnumType):
                problem = f"expected one of {', '.join(choices)}"
        raise SettingsError(f"{variable} is {text!r}: {problem[0].lower()}{problem[1:]}") from None
