"""What the service logs: each event is one line, whoever says it, and holds nothing of a request but its id."""

import atexit
import functools
import logging
import logging.config
import os
import select
import stat
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

from volume.log import LogLevel, json_line, now, say_end

logger = logging.getLogger("model_server")

_FORMATTER = logging.Formatter()
_PIPE_BUF = 4096  # what a pipe that takes something takes whole
_LAST_MILLISECONDS = 200


class Log(logging.Handler):
    """Every line of this process, in JSON unless a terminal shows it.

    It never waits for who reads it: a line that finds no room is left out, and the next one says in `suppressed` how
    many were.

    Args:
        descriptor: what the lines are written to.

    Attributes:
        model: the digest of the model that is served, once it is known.
    """

    model = ""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._terminal = os.isatty(descriptor)
        if self._terminal:
            # What has room may have too little, and only a description of our own may be told not to wait.
            with suppress(OSError):
                descriptor = os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._is_file = False
        with suppress(OSError):  # it is closed
            self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._rest = b""
        self._suppressed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record; the message of one of ours is the event, and its attribute `fields` has the rest."""
        try:
            self._say_record(record)
        except Exception:  # noqa: BLE001 (as `logging` has it: who logs wrongly goes on)
            self.handleError(record)

    def _say_record(self, record: logging.LogRecord) -> None:
        trace = _FORMATTER.formatException(record.exc_info) if record.exc_info else None
        level = next(level for level in reversed(LogLevel) if record.levelno >= level.number or level == LogLevel.DEBUG)
        if record.name == logger.name:
            self.say(level, record.getMessage(), **record.__dict__.get("fields", {}), trace=trace)
        else:
            self.say(level, "message", logger=record.name, message=record.getMessage(), trace=trace)

    def say(self, level: LogLevel, event: str, **fields: object) -> None:
        """Log an event, if its level is logged.

        Args:
            level: how much it matters.
            event: what has happened, in one word.
            fields: what else there is to say; None when there is nothing.
        """
        if level.number < self.level:
            return
        self.acquire()
        try:
            fields["suppressed"] = self._suppressed or None
            compose = _text_line if self._terminal else json_line
            written = self._write(compose(level, event, self.model, **fields))
            self._suppressed = 0 if written else self._suppressed + 1
        finally:
            self.release()

    def flush(self) -> None:
        """Write what is left of a line, if somebody reads it."""
        self.acquire()
        try:
            self._drain(_LAST_MILLISECONDS)
        finally:
            self.release()

    def _write(self, line: str) -> bool:
        self._drain()
        if self._rest:
            return False
        self._rest = whole = line.encode(errors="backslashreplace")
        self._drain()
        if self._rest is whole:
            self._rest = b""
            return False
        return True

    def _drain(self, milliseconds: int = 0) -> None:
        size = len(self._rest) if self._is_file else _PIPE_BUF
        try:
            while self._rest and self._room.poll(milliseconds):
                self._rest = self._rest[os.write(self._descriptor, self._rest[:size]) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody can read it any more
            self._rest = b""


def _text_line(level: LogLevel, event: str, _model: str, **fields: object) -> str:
    known = {name: value for name, value in fields.items() if value is not None}
    words = [known.pop("message", event)]
    trace = known.pop("trace", None)
    words.extend(f"{name}={value}" for name, value in known.items())
    return " ".join((now(), level.upper(), *map(str, words))) + (f"\n{trace}\n" if trace else "\n")


@functools.cache
def service_log() -> Log:
    """Return the log of this process, on its standard output."""
    log = Log(1)
    atexit.register(log.flush)
    return log


def configure(level: LogLevel = LogLevel.INFO, config: dict[str, Any] | None = None) -> Log:
    """Send everything that this process logs to its log, and return that.

    Args:
        level: the least level that is logged; from other packages, warnings at least.
        config: a configuration of `logging` that others apply later; it is replaced by ours.
    """
    config = {} if config is None else config
    log = service_log()
    log.setLevel(level.number)
    levels = {
        logger.name: level.number,
        "bentoml": logging.INFO,
        "circus": logging.WARNING,
        "uvicorn.error": logging.ERROR,  # of what it warns about, the log of requests has a line
    }
    config.clear()
    config.update(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"log": {"()": service_log}},
            "loggers": {name: {"level": number, "handlers": [], "propagate": True} for name, number in levels.items()},
            "root": {"level": logging.WARNING, "handlers": ["log"]},
        }
    )
    logging.config.dictConfig(config)
    logging.captureWarnings(capture=True)
    sys.excepthook = _say_crash
    threading.excepthook = _say_end_of_thread
    sys.unraisablehook = lambda crash: _say_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)
    return log


def fail(sentence: str, code: str) -> None:
    """Log on standard error why this process ends, as one line, with a short name for the error."""
    say_end("model-load-server", sentence, code=code)


def _say_end_of_thread(end: threading.ExceptHookArgs) -> None:
    if not issubclass(end.exc_type, SystemExit):
        _say_crash(end.exc_type, end.exc_value, end.exc_traceback)


def _say_crash(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), trace)
    else:
        logger.error("crashed", exc_info=(kind, error or kind(), trace))
