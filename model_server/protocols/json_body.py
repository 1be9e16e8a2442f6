"""JSON request bodies with rows in one field: `{"data": [row, ...]}`."""

import json
from typing import Any

import orjson

from model_server.model.rows import InvalidRowsError, format_position

_NAMES = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_SHOWN = 40  # characters of a name or value in a message


class BodyError(ValueError):
    """The body is not a valid prediction request.

    Attributes:
        code: error code for logs.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def load_json(body: bytes) -> Any:  # noqa: ANN401 (a JSON value)
    """Return the JSON value in a body.

    Raises:
        BodyError: the body is not JSON.
        MemoryError: there is not enough memory to parse the body.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Not enough memory"):
            raise MemoryError from error
        raise BodyError("body-not-json", f"The body is not valid JSON: {error}.") from None


def read_document(body: bytes, field: str) -> dict[str, Any]:
    """Return the JSON object in a body. If a name appears twice, its last value counts.

    Raises:
        BodyError: the body is not a JSON object with this field.
        MemoryError: there is not enough memory to parse the body.
    """
    document = load_json(body)
    if not isinstance(document, dict):
        found = _NAMES.get(type(document)) or repr(document)[:_SHOWN]
        raise BodyError("body-not-object", f'The body is {found}; expected an object, {{"{field}": [row, ...]}}.')
    if field not in document:
        raise BodyError("field-missing", f'The field "{field}" is missing; expected {{"{field}": [row, ...]}}.')
    return document


def check_only_field(document: dict[str, Any], field: str) -> None:
    """Check that a document has only this field.

    Raises:
        BodyError: the document has another field.
    """
    if len(document) > 1:
        extra = next(name for name in document if name != field)
        raise BodyError("field-unknown", f'The field {extra[:_SHOWN]!r} is unknown; expected "{field}" only.')


def check_names(body: bytes, field: str, strings: int) -> None:
    """Check that no name appears twice in the body or in a row.

    Args:
        body: a document with only this field, whose rows are valid.
        field: the field with the rows.
        strings: number of strings in the parsed document, including names; a repeated name is counted once.

    Raises:
        BodyError: the field appears twice.
        InvalidRowsError: a name appears twice in a row.
    """
    quotes = body.count(b'"')
    # A repeated name adds quotes to the body. Escaped quotes do not count; double backslashes require a second parse.
    if quotes == 2 * strings or (b"\\\\" not in body and quotes - body.count(b'\\"') == 2 * strings):
        return
    check_every_name(body, field)


def check_every_name(body: bytes, field: str) -> None:
    """Check the same as `check_names` by parsing the body again; the body may have other fields."""
    try:
        document = json.loads(body, object_pairs_hook=_Object)
    except RecursionError:
        raise BodyError("body-not-json", "The body is not valid JSON: it is nested too deeply.") from None
    if document.repeated is not None:
        name = document.repeated[:_SHOWN]
        raise BodyError("field-twice", f'The field "{name}" appears twice; expected once.')
    for index, row in enumerate(document[field]):
        if isinstance(row, _Object) and row.repeated is not None:
            raise InvalidRowsError((index, row.repeated), "appears twice; expected once")


def format_error(error: InvalidRowsError, field: str) -> str:
    """Return an error in the rows as one sentence about the field with the rows."""
    like = "" if error.reference is None else f", as in {format_position(field, error.reference)}"
    return f"{format_position(field, error.position)} {error.problem}{like}."


class _Object(dict[str, Any]):
    """JSON object.

    Attributes:
        repeated: the first name that appears twice; None without one.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: str | None = None
        if len(self) != len(pairs):
            names = [name for name, _ in pairs]
            self.repeated = next(name for index, name in enumerate(names) if name in names[:index])
