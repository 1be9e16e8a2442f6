"""Checks of single files before they are published, in addition to the checksums of their source."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from loader.errors import IntegrityError, translate_os_errors
from volume.labels import MAX_LABELS_SIZE, LabelsError, parse_labels
from volume.onnx_file import OnnxError, OnnxInfo, read_onnx
from volume.receipt import RECEIPT, FileRecord


def check_sha256(record: FileRecord, expected: str, setting: str) -> None:
    """Raise `IntegrityError` if `expected` is not empty and differs from the sha256 of the record."""
    if expected and record.sha256 != expected.lower():
        raise IntegrityError(
            "digest-mismatch",
            f"{record.uri} has the sha256 {record.sha256}, but {setting} is {expected.lower()}: "
            "correct the setting or the file",
        )


def check_labels_size(uri: str, size: int) -> None:
    """Raise `IntegrityError` if `size` is larger than the maximum size of a label file."""
    if size > MAX_LABELS_SIZE:
        raise IntegrityError(
            "labels-invalid",
            f"{uri} is not a label file: it has {size} bytes; a label file has at most {MAX_LABELS_SIZE}",
        )


def check_labels(path: Path, uri: str) -> None:
    """Raise `IntegrityError` unless the file is a JSON object that maps the indices from "0" to class names."""
    with translate_os_errors(f"cannot read {path}"):
        content = path.read_bytes()
    try:
        parse_labels(content)
    except LabelsError as error:
        raise IntegrityError("labels-invalid", f"{uri} is not a label file: it {error}") from error


def read_model(path: Path, uri: str) -> OnnxInfo:
    """Return the format of the ONNX model and the names of its external data files.

    Raises:
        IntegrityError: the file is not an ONNX model, or an external data file is outside the model's directory.
    """
    with translate_os_errors(f"cannot read {path}"), path.open("rb") as file:
        try:
            return read_onnx(file)
        except OnnxError as error:
            raise IntegrityError("model-invalid", f"{uri} is not an ONNX model that can be served: {error}") from error


def check_names(model: str, labels: str, locations: Iterable[str]) -> None:
    """Check the names of external data files.

    Raises:
        IntegrityError: a name is the path of another file of the load, or one path is a directory of the other.
    """
    external, others = set(locations), {model, labels, RECEIPT}
    for taken in others & external:
        raise IntegrityError(
            "names-clash", f"the model keeps weights in {taken!r}, which is the name of another file of the load"
        )
    # Sorted by their parts, a name is followed by any name inside it.
    for name, following in pairwise(sorted(external | others, key=lambda name: name.split("/"))):
        if following.startswith(f"{name}/"):
            raise IntegrityError(
                "names-clash",
                f"the model keeps weights in {following!r}, but {name!r} is another file of the load, and cannot be "
                "a directory too: export the model with other names",
            )
