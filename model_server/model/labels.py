"""The label file: which class each column of the probabilities stands for."""

import json
from pathlib import Path
from typing import Any

from model_server.errors import StartError
from volume.receipt import FileRecord, ReceiptError

_MAX_SIZE = 4 << 20


def load_labels(path: Path, record: FileRecord | None = None) -> tuple[str, ...]:
    """Return the class names in the order of their indices.

    The file is a JSON object that maps every index from "0" on to a name: `{"0": "setosa", "1": "versicolor"}`.

    Args:
        path: the label file.
        record: what the loader's receipt says of it, if there is one.

    Raises:
        StartError: the file cannot be read, is too large, is not that of the record, is not such an object, or leaves
            an index out.
    """
    try:
        if (size := path.stat().st_size) > _MAX_SIZE:
            raise StartError(f"LABEL_FILEPATH: {path} has {size} bytes, a label file at most {_MAX_SIZE}")
        content = path.read_bytes()
        if record:
            record.check_content(path, content)
        names = json.loads(content, object_pairs_hook=_unique)
    except OSError as error:
        raise StartError(f"LABEL_FILEPATH: cannot read {path}: {error.strerror}") from error
    except ReceiptError as error:
        raise StartError(f"LABEL_FILEPATH: {error}") from error
    except (ValueError, RecursionError) as error:
        raise StartError(
            f"LABEL_FILEPATH: {path} is not JSON: {error}", 'write it like {"0": "first name", "1": "second name"}'
        ) from error
    if not isinstance(names, dict) or not names:
        raise StartError(f'LABEL_FILEPATH: {path} must be a JSON object like {{"0": "name"}} with an entry a class')
    for index in range(len(names)):
        if str(index) not in names:
            raise StartError(
                f'LABEL_FILEPATH: {path} has {len(names)} entries, so its keys must be "0" to "{len(names) - 1}": '
                f'"{index}" is missing'
            )
        if not _is_text(names[str(index)]):
            raise StartError(f'LABEL_FILEPATH: {path} must map every index to a text: "{index}" does not')
    return tuple(names[str(index)] for index in range(len(names)))


def _is_text(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a key stands in it twice")
    return names
