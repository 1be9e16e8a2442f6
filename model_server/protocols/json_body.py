"""A body of JSON with rows in one of its fields: `{"data": [row, ...]}`."""

import json
from typing import Any

import orjson

from model_server.model.rows import InvalidRowsError, format_position

_NAMES = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_SHOWN = 40  # characters of a name or value


class BodyError(ValueError):
    """A body that is not a request for a prediction.

    Attributes:
        code: a short name for the error, for logs.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def read_document(body: bytes, field: str) -> dict[str, Any]:
    """Return a body that is a JSON object with that field; of a name that is there twice, it has the last.

    Raises:
        BodyError: it is not.
        MemoryError: there is too little memory for it.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Not enough memory"):
            raise MemoryError from error
        raise BodyError("body-not-json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(document, dict):
        found = _NAMES.get(type(document)) or repr(document)[:_SHOWN]
        raise BodyError("body-not-object", f'The body is {found}; expected an object, {{"{field}": [row, ...]}}.')
    if field not in document:
        raise BodyError("field-missing", f'The field "{field}" is missing; expected {{"{field}": [row, ...]}}.')
    return document


def check_only_field(document: dict[str, Any], field: str) -> None:
    """Check that a document has no other field.

    Raises:
        BodyError: it has one.
    """
    if len(document) > 1:
        extra = next(name for name in document if name != field)
        raise BodyError("field-unknown", f'The field {extra[:_SHOWN]!r} is unknown; expected "{field}" only.')


def check_names(body: bytes, field: str, strings: int) -> None:
    """Check that no name is there twice, in the body or in a row.

    Args:
        body: a document of the field alone, whose rows are valid.
        field: the field with the rows.
        strings: how many strings the parsed document has, names included. A name that is there twice is one more.

    Raises:
        BodyError: the field is there twice.
        InvalidRowsError: a row has a name twice.
    """
    quotes = body.count(b'"')
    # A quote in a string has a backslash before it; of two backslashes, that would need a closer look.
    if quotes == 2 * strings or (b"\\\\" not in body and quotes - body.count(b'\\"') == 2 * strings):
        return
    check_every_name(body, field)


def check_every_name(body: bytes, field: str) -> None:
    """Check the same as `check_names` by reading the body again, whatever other fields it has."""
    try:
        document = json.loads(body, object_pairs_hook=_Object)
    except RecursionError:
        raise BodyError("body-not-json", "The body is not valid JSON: it is nested too deeply.") from None
    if document.repeated is not None:
        name = document.repeated[:_SHOWN]
        raise BodyError("field-twice", f'The field "{name}" is there twice; expected it once.')
    for index, row in enumerate(document[field]):
        if isinstance(row, _Object) and row.repeated is not None:
            raise InvalidRowsError((index, row.repeated), "is there twice; expected it once")


def format_error(error: InvalidRowsError, field: str) -> str:
    """Return an error of rows as one sentence about the field that they were in."""
    like = "" if error.reference is None else f", as in {format_position(field, error.reference)}"
    return f"{format_position(field, error.position)} {error.problem}{like}."


class _Object(dict[str, Any]):
    """A JSON object that knows the first name that it has twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: str | None = None
        if len(self) != len(pairs):
            names = [name for name, _ in pairs]
            self.repeated = next(name for index, name in enumerate(names) if name in names[:index])
