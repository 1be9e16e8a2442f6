"""The service's settings."""

import errno
import math
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, Self

from msgspec import Meta

from model_server.model.tasks import ModelOutput
from volume.receipt import Receipt, ReceiptError
from volume.settings import SettingsError, VolumeSettings

_DAY = 86_400
_FIX = "(run the loader first, or set the variable to your file)"


class Settings(VolumeSettings, frozen=True, kw_only=True):
    """The service's settings; each field is an environment variable with the same name in uppercase."""

    max_body_bytes: Annotated[int, Meta(gt=0, description="the largest request body accepted, in bytes")] = 8 << 20
    max_requests_in_flight: Annotated[
        Annotated[int, Meta(gt=0)] | None,
        Meta(description="the maximum number of requests in flight (default: as many as the model answers in 40 ms)"),
    ] = None
    request_timeout_seconds: Annotated[
        float,
        Meta(gt=0, le=_DAY, description="how long a request may take to arrive, and then how long its answer may take"),
    ] = 15
    batching: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="whether requests that arrive together share an inference: if that is faster and each row gets "
            "bit-for-bit the same answer as alone (auto), even if the last digits differ (on), or never (off)"
        ),
    ] = "auto"
    start_timeout_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="how long the model may take to load and answer its first row")
    ] = 50
    keep_alive_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="how long a connection may be idle between two requests")
    ] = 620
    max_idle_connections: Annotated[
        int, Meta(gt=0, description="the maximum number of idle connections; above it, the longest idle one is closed")
    ] = 1024
    max_row_length: Annotated[
        Annotated[int, Meta(gt=0)] | None,
        Meta(
            description="the maximum length of a dynamic dimension of a row (default: the length that takes a second)"
        ),
    ] = None
    access_log_sample_rate: Annotated[
        float, Meta(ge=0, le=1, description="the share of successful requests to log; all errors are logged")
    ] = 0
    prediction_metrics: Annotated[
        bool, Meta(description="whether to count the predicted classes and their probabilities")
    ] = True
    prediction_log_sample_rate: Annotated[
        float, Meta(ge=0, le=1, description="the share of predictions to log with their inputs, the data of your users")
    ] = 0
    otel_exporter_otlp_endpoint: Annotated[
        str, Meta(pattern="^(https?://.+)?$", description="the OTLP/HTTP collector to send spans to")
    ] = ""
    model_output: Annotated[
        str,
        Meta(
            description="the kind of the model's output: probabilities, logits, log_probabilities, sigmoid, "
            "sigmoid_logits or values, with an optional name after a colon (default: determined from the model)"
        ),
    ] = ""
    model_name: Annotated[
        str,
        Meta(
            pattern="^([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})?$",
            description="the model's name in the URLs of the Open Inference Protocol (default: the stem of its file or "
            "object)",
        ),
    ] = ""
    intra_op_num_threads: Annotated[int, Meta(gt=0, description="the number of processors that one inference uses")] = 1

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Return the settings from the environment; an empty variable counts as unset.

        If MODEL_FILEPATH is a directory and LABEL_FILEPATH is unset, the label file is `label.json` in the directory.

        Raises:
            SettingsError: a value has the wrong type or is out of range, or a file is missing. Only the label file may
                be missing, if LABEL_FILEPATH is unset or the loader loaded the model without labels.
        """
        place = environment.get("MODEL_FILEPATH")
        in_directory = place and Path(place).is_dir() and not environment.get("LABEL_FILEPATH")
        labels = {"LABEL_FILEPATH": f"{place}/label.json"} if in_directory else {}
        settings = super().read({**environment, **labels})
        path = settings.label_filepath
        if environment.get("LABEL_FILEPATH") and not os.path.lexists(path) and not settings._is_loaded_without_labels():
            raise SettingsError(f"LABEL_FILEPATH is {path.absolute()}: {os.strerror(errno.ENOENT)} {_FIX}")
        return settings

    def __post_init__(self) -> None:
        """Check the value of MODEL_OUTPUT, and that the files exist."""
        if self.model_output:
            try:
                ModelOutput.parse(self.model_output)
            except ValueError as error:
                raise ValueError(f"MODEL_OUTPUT {error}") from None
        files = {"MODEL_FILEPATH": self.model_file}
        if os.path.lexists(self.label_filepath):
            files["LABEL_FILEPATH"] = self.label_filepath
        problems = [
            f"{name} is {path.absolute()}: {problem}"
            for name, path in files.items()
            if (problem := _problem(name, path))
        ]
        if problems:
            raise ValueError(f"{'; '.join(problems)} {_FIX}")

    @property
    def model_file(self) -> Path:
        """The model: MODEL_FILEPATH or, if that is a directory, its only ONNX file."""
        found = _onnx_files(self.model_filepath)
        return found[0] if len(found) == 1 else self.model_filepath

    def _is_loaded_without_labels(self) -> bool:
        try:
            receipt = Receipt.read(self.model_file.resolve().parent)
        except (OSError, ReceiptError):  # reported when the model file is read
            return False
        return receipt is not None and receipt.labels is None


def processors() -> int:
    """Return how many processors this process may use, according to its affinity and its cgroup v2 quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))  # "max" is not a number
    return count


def _onnx_files(directory: Path) -> list[Path]:
    """Return the ONNX files that are not hidden; none if the path is not a directory."""
    return sorted(path for path in directory.glob("*.onnx") if not path.name.startswith("."))


def _problem(variable: str, path: Path) -> str | None:
    try:
        if (path / "saved_model.pb").exists():
            return f"A TensorFlow SavedModel; convert it to ONNX with python -m tf2onnx.convert --saved-model {path}"
        if stat.S_ISDIR(path.stat().st_mode) and variable == "MODEL_FILEPATH":
            found = " and ".join(file.name for file in _onnx_files(path)) or "none"
            return f"Found {found}, expected one .onnx file in this directory"
        if not stat.S_ISREG(path.stat().st_mode):
            return "Not a regular file"
        path.open("rb").close()
    except OSError as error:
        return error.strerror
    return None
