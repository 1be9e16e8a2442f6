"""The label file: a JSON object that names every class by its index, `{"0": "setosa", "1": "versicolor"}`."""

import json
from typing import Any

MAX_LABELS_SIZE = 4 << 20


class LabelsError(ValueError):
    """Content that is not a label file; the message completes a sentence that starts with the file."""


def parse_labels(content: bytes) -> tuple[str, ...]:
    """Return the class names in the order of their indices.

    The file is a JSON object that maps every index, starting at "0", to a name.

    Raises:
        LabelsError: the content is not such an object, or an index is missing.
    """
    try:
        names = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"is not JSON: {error}") from error
    if not isinstance(names, dict) or not names:
        raise LabelsError('must be a JSON object like {"0": "name"} with one entry per class')
    for index in map(str, range(len(names))):
        if index not in names:
            raise LabelsError(
                f'has {len(names)} entries, so its keys must be "0" to "{len(names) - 1}": "{index}" is missing'
            )
        if not _is_text(names[index]):
            raise LabelsError(f'must map every index to a string: "{index}" does not')
    return tuple(names[str(index)] for index in range(len(names)))


def _is_text(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a key occurs twice")
    return names
