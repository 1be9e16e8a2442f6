"""The service's settings."""

import math
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from volume.settings import VolumeSettings

_DAY = 86_400


class Settings(VolumeSettings, frozen=True, kw_only=True):
    """The service's settings; each field is an environment variable with the same name in uppercase."""

    max_body_bytes: Annotated[int, Meta(gt=0, description="the largest request body accepted, in bytes")] = 8 << 20
    max_requests_in_flight: Annotated[
        Annotated[int, Meta(gt=0)] | None,
        Meta(description="the maximum number of requests in flight (default: as many as take 40 ms together)"),
    ] = None
    request_timeout_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="how long a request may take to arrive, and again to be answered")
    ] = 15
    start_timeout_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="how long the model may take to load and to answer its first row")
    ] = 50
    keep_alive_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="how long a connection may be idle between two requests")
    ] = 620
    max_idle_connections: Annotated[
        int, Meta(gt=0, description="the maximum number of idle connections; beyond it, the longest idle is closed")
    ] = 1024
    access_log_sample_rate: Annotated[
        float, Meta(ge=0, le=1, description="the share of successful requests to log; all errors are logged")
    ] = 0
    otel_exporter_otlp_endpoint: Annotated[
        str, Meta(pattern="^(https?://.+)?$", description="the OTLP/HTTP collector to send spans to")
    ] = ""
    intra_op_num_threads: Annotated[int, Meta(gt=0, description="the number of processors that one inference uses")] = 1

    def __post_init__(self) -> None:
        """Check that the files exist and can be read."""
        files = {"MODEL_FILEPATH": self.model_filepath, "LABEL_FILEPATH": self.label_filepath}
        problems = [
            f"{name} is {path.absolute()}: {problem}" for name, path in files.items() if (problem := _problem(path))
        ]
        if problems:
            raise ValueError(f"{'; '.join(problems)} (run the loader first, or set the variable to your file)")


def processors() -> int:
    """Return how many processors this process may use, by its affinity and by its control group's quota (v2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))  # "max" is not a number
    return count


def _problem(path: Path) -> str | None:
    try:
        if (path / "saved_model.pb").exists():
            return f"A TensorFlow SavedModel; convert it to ONNX with python -m tf2onnx.convert --saved-model {path}"
        if not stat.S_ISREG(path.stat().st_mode):
            return "Not a regular file"
        path.open("rb").close()
    except OSError as error:
        return error.strerror
    return None
