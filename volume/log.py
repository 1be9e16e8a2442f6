"""How the loader and the service log: an event is one line, of JSON unless a terminal shows it."""

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=str)


class LogLevel(StrEnum):
    """How much an event matters, in any case of letters."""

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
    """Return an event as a line of JSON, with its end.

    Args:
        level: how much it matters.
        event: what has happened, in one word.
        model: the digest of the model that it is about, once that is known.
        fields: what else there is to say; None when there is nothing.
    """
    given = {"time": now(), "level": level.value, "event": event, "model": model or None, **fields}
    known = {name: value for name, value in given.items() if value is not None}
    try:
        line = _encoder.encode(known)
    except UnicodeEncodeError:  # a file's name may be anything
        line = _encoder.encode(_readable(msgspec.to_builtins(known, enc_hook=str)))
    return escaped(line.decode()) + "\n"


def say_end(program: str, sentence: str, model: str = "", **fields: object) -> None:
    """Say on standard error, in one line, why a program ends; nobody has to be there to read it.

    Args:
        program: its name, for a terminal.
        sentence: why.
        model: as for `json_line`.
        fields: likewise, but not for a terminal.
    """
    with suppress(OSError, ValueError):
        if sys.stderr:  # None when the descriptor is closed
            event = json_line(LogLevel.ERROR, "failed", model, error=sentence, **fields)
            line = f"{program}: {printable(sentence)}\n" if sys.stderr.isatty() else event
            print(line, end="", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return the text on one line, with Python's escapes for all characters that cannot be printed.

    A name or an error from outside may hold anything, such as commands to a terminal.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def escaped(document: str) -> str:
    """Return the same JSON, on one line, with escapes for all characters that cannot be printed."""
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
