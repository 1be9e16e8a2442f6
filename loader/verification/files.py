"""The checks of a file before it is published, beyond the checksums of its source."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from loader.errors import IntegrityError, translate_os_errors
from volume.labels import MAX_LABELS_SIZE, LabelsError, parse_labels
from volume.onnx_file import OnnxError, OnnxInfo, read_onnx
from volume.receipt import RECEIPT, FileRecord


def check_sha256(record: FileRecord, expected: str, setting: str) -> None:
    """Raise `IntegrityError` unless the record has the sha256 that the setting expects; empty expects nothing."""
    if expected and record.sha256 != expected.lower():
        raise IntegrityError(
            "digest-mismatch",
            f"{record.uri} has the sha256 {record.sha256}, but {setting} is {expected.lower()}: "
            "correct the setting or the file",
        )


def check_labels_size(uri: str, size: int) -> None:
    """Raise `IntegrityError` when a file of `size` bytes is too large to be a label file."""
    if size > MAX_LABELS_SIZE:
        raise IntegrityError(
            "labels-invalid",
            f"{uri} is not a label file: it has {size} bytes; a label file has at most {MAX_LABELS_SIZE}",
        )


def check_labels(path: Path, uri: str) -> None:
    """Raise `IntegrityError` unless the file is a JSON object that maps every index from "0" on to a class name."""
    with translate_os_errors(f"cannot read {path}"):
        content = path.read_bytes()
    try:
        parse_labels(content)
    except LabelsError as error:
        raise IntegrityError("labels-invalid", f"{uri} is not a label file: it {error}") from error


def read_model(path: Path, uri: str) -> OnnxInfo:
    """Return the format of the ONNX model, with the names of the files beside it that hold its weights.

    Raises:
        IntegrityError: the file is not an ONNX model, or one of its names leaves the model's directory.
    """
    with translate_os_errors(f"cannot read {path}"), path.open("rb") as file:
        try:
            return read_onnx(file)
        except OnnxError as error:
            raise IntegrityError("model-invalid", f"{uri} is not an ONNX model that can be served: {error}") from error


def check_names(model: str, labels: str, locations: Iterable[str]) -> None:
    """Raise `IntegrityError` when an external data file would take the place of another file of the load."""
    external, others = set(locations), {model, labels, RECEIPT}
    for taken in others & external:
        raise IntegrityError(
            "names-clash", f"the model keeps weights in {taken!r}, which is the name of another file of the load"
        )
    # Sorted by their parts, a directory stands right before what is in it.
    for name, following in pairwise(sorted(external | others, key=lambda name: name.split("/"))):
        if following.startswith(f"{name}/"):
            raise IntegrityError(
                "names-clash",
                f"the model keeps weights in {following!r}, but {name!r} is another file of the load, and cannot be "
                "a directory too: export the model with other names",
            )
