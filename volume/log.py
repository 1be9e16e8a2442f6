"""The log format of the loader and the service: one line per event, readable text on a terminal and JSON elsewhere."""

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=str)


class LogLevel(StrEnum):
    """The level of an event; names are case-insensitive."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @classmethod
    def _missing_(cls, value: object) -> "LogLevel | None":
        return cls.__members__.get(str(value).upper())

    @property
    def number(self) -> int:
        """The level of Python's `logging`."""
        return 10 + 10 * list(LogLevel).index(self)


def now() -> str:
    """Return the time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def json_line(level: LogLevel, event: str, model: str = "", **fields: object) -> str:
    """Return an event as a line of JSON, with the line break.

    Args:
        level: the level of the event.
        event: the name of the event.
        model: the identity of the model; empty if unknown.
        fields: further fields; those that are None are left out.
    """
    given = {"time": now(), "level": level.value, "event": event, "model": model or None, **fields}
    known = {name: value for name, value in given.items() if value is not None}
    try:
        line = _encoder.encode(known)
    except UnicodeEncodeError:  # a file name can contain surrogates
        line = _encoder.encode(_readable(msgspec.to_builtins(known, enc_hook=str)))
    return escaped(line.decode()) + "\n"


def log_exit(program: str, sentence: str, model: str = "", **fields: object) -> None:
    """Log the reason for a program's exit as one line on standard error; errors of the stream are ignored.

    Args:
        program: the program's name, shown on a terminal.
        sentence: the reason.
        model: the identity of the model; empty if unknown.
        fields: further fields of the JSON line.
    """
    with suppress(OSError, ValueError):
        if sys.stderr:  # None when the descriptor is closed
            event = json_line(LogLevel.ERROR, "failed", model, error=sentence, **fields)
            line = f"{program}: {printable(sentence)}\n" if sys.stderr.isatty() else event
            print(line, end="", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return the text on one line, with Python's escapes for all characters that cannot be printed.

    Names and errors from other systems can contain control sequences for a terminal.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def escaped(document: str) -> str:
    """Return the JSON document on one line, with escapes for all characters that cannot be printed."""
    if document.isprintable():
        return document
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in document)


def _readable(value: object) -> object:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {name: _readable(item) for name, item in value.items()}
        case list() | tuple():
            return list(map(_readable, value))
        case _:
            return value
