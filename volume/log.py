"""How the loader and the service log: an event is one line, of JSON unless a terminal shows it."""

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
    return line.decode() + "\n"


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
