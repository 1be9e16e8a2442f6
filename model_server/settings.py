"""The service's settings."""

import stat
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from volume.settings import VolumeSettings


class Settings(VolumeSettings, frozen=True, kw_only=True):
    """The service's settings; each field is an environment variable in capitals."""

    max_body_bytes: Annotated[int, Meta(gt=0, description="the largest request body accepted, in bytes")] = 8 << 20

    def __post_init__(self) -> None:
        """Check that the files are there."""
        files = {"MODEL_FILEPATH": self.model_filepath, "LABEL_FILEPATH": self.label_filepath}
        problems = [
            f"{name} is {path.absolute()}: {problem}" for name, path in files.items() if (problem := _problem(path))
        ]
        if problems:
            raise ValueError(f"{'; '.join(problems)} (run the loader first, or set the variable to your file)")


def _problem(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "Not a regular file"
        path.open("rb").close()
    except OSError as error:
        return error.strerror
    return None
