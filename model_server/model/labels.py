"""The label file at LABEL_FILEPATH."""

from pathlib import Path

from model_server.errors import StartError
from volume.labels import MAX_LABELS_SIZE, LabelsError, parse_labels
from volume.receipt import FileRecord, ReceiptError

EXAMPLE = '{"0": "first name", "1": "second name"}'


def load_labels(path: Path, record: FileRecord | None = None) -> tuple[str, ...] | None:
    """Return the class names in the order of their indices; None without a label file, unless the receipt lists one.

    Args:
        path: the label file.
        record: the record of the label file in the loader's receipt; None without one.

    Raises:
        StartError: the file cannot be read, is not a label file, or does not match the record.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_LABELS_SIZE else b""
        if size > MAX_LABELS_SIZE:
            raise StartError(
                "labels-invalid",
                f"LABEL_FILEPATH: {path} has {size} bytes; a label file has at most {MAX_LABELS_SIZE}",
            )
        if record:
            record.check_content(path, content)
        return parse_labels(content)
    except FileNotFoundError as error:
        if record is None and not path.is_symlink():
            return None
        raise StartError("labels-unreadable", f"LABEL_FILEPATH: cannot read {path}: {error.strerror}") from error
    except OSError as error:
        reason = f"LABEL_FILEPATH: cannot read {path}: {error.strerror}"
        raise StartError("labels-unreadable", reason) from error
    except ReceiptError as error:
        raise StartError("receipt-mismatch", f"LABEL_FILEPATH: {error}") from error
    except LabelsError as error:
        raise StartError(
            "labels-invalid",
            f"LABEL_FILEPATH: {path} {error}",
            f"write it like {EXAMPLE}",
        ) from error
