"""The service's log: one line per event, with nothing from a request except its id, method and route."""

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

from volume.log import LogLevel, json_line, log_exit, now

logger = logging.getLogger("model_server")

_FORMATTER = logging.Formatter()
_PIPE_BUF = 4096  # a writable pipe accepts this many bytes at once
_FLUSH_MILLISECONDS = 200


class Log(logging.Handler):
    """Logging handler for the whole process. It writes text to a terminal, and JSON to anything else.

    It never waits for the reader: a line that does not fit into the output is dropped, and the next line reports the
    number of dropped lines in `suppressed`.

    Args:
        descriptor: the file descriptor of the output.

    Attributes:
        model: the sha256 of the served model; empty until it is known.
    """

    model = ""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._terminal = os.isatty(descriptor)
        if self._terminal:
            # poll() can report room for less than a whole line, and O_NONBLOCK on the inherited description would
            # affect other processes: reopen the terminal.
            with suppress(OSError):
                descriptor = os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._is_file = False
        with suppress(OSError):  # the descriptor is closed
            self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._unwritten = b""
        self._suppressed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record. In this package's records, the message is the event and `fields` holds its fields."""
        try:
            self._write_record(record)
        except Exception:  # noqa: BLE001 (as in `logging`: a bad record must not stop its caller)
            self.handleError(record)

    def _write_record(self, record: logging.LogRecord) -> None:
        trace = _FORMATTER.formatException(record.exc_info) if record.exc_info else None
        level = next(level for level in reversed(LogLevel) if record.levelno >= level.number or level == LogLevel.DEBUG)
        if record.name == logger.name:
            self.write(level, record.getMessage(), **record.__dict__.get("fields", {}), trace=trace)
        else:
            self.write(level, "message", logger=record.name, message=record.getMessage(), trace=trace)

    def write(self, level: LogLevel, event: str, **fields: object) -> bool:
        """Log an event, unless its level is below the handler's. Return False if the output has no room for it.

        Args:
            level: the level of the event.
            event: the name of the event, one word.
            fields: the fields of the event; those with the value None are omitted.
        """
        if level.number < self.level:
            return True
        self.acquire()
        try:
            fields["suppressed"] = self._suppressed or None
            compose = _text_line if self._terminal else json_line
            written = self._write_line(compose(level, event, self.model, **fields))
            self._suppressed = 0 if written else self._suppressed + 1
        finally:
            self.release()
        return written

    def flush(self) -> None:
        """Write the rest of an incomplete line, if the output accepts it within 200 ms."""
        self.acquire()
        try:
            self._write_some(_FLUSH_MILLISECONDS)
        finally:
            self.release()

    def _write_line(self, line: str) -> bool:
        self._write_some()
        if self._unwritten:
            return False
        self._unwritten = encoded = line.encode(errors="backslashreplace")
        self._write_some()
        if self._unwritten is encoded:
            self._unwritten = b""
            return False
        return True

    def _write_some(self, milliseconds: int = 0) -> None:
        size = len(self._unwritten) if self._is_file else _PIPE_BUF
        try:
            while self._unwritten and self._poll.poll(milliseconds):
                self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten[:size]) :]
        except BlockingIOError:
            pass
        except OSError:  # the reader has closed the output
            self._unwritten = b""


def _text_line(level: LogLevel, event: str, _model: str, **fields: object) -> str:
    known = {name: value for name, value in fields.items() if value is not None}
    words = [known.pop("message", event)]
    trace = known.pop("trace", None)
    words.extend(f"{name}={value}" for name, value in known.items())
    return " ".join((now(), level.upper(), *map(str, words))) + (f"\n{trace}\n" if trace else "\n")


@functools.cache
def service_log() -> Log:
    """Return the log of this process, which writes to standard output."""
    log = Log(1)
    atexit.register(log.flush)
    return log


def configure(level: LogLevel = LogLevel.INFO, config: dict[str, Any] | None = None) -> Log:
    """Send everything that this process logs to its log, and return that log.

    Args:
        level: the minimum level for this package; other packages log warnings and errors.
        config: a `logging` configuration that another library applies later; its content is replaced.
    """
    config = {} if config is None else config
    log = service_log()
    log.setLevel(level.number)
    levels = {
        logger.name: level.number,
        "bentoml": logging.INFO,
        "circus": logging.WARNING,
        "uvicorn.error": logging.ERROR,  # the request log already covers what uvicorn warns about
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
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash
    sys.unraisablehook = lambda crash: _log_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)
    return log


def log_failure(sentence: str, code: str) -> None:
    """Log on standard error why this process exits, as one line with the error's short name."""
    log_exit("model-load-server", sentence, code=code)


def _log_thread_crash(end: threading.ExceptHookArgs) -> None:
    if not issubclass(end.exc_type, SystemExit):
        _log_crash(end.exc_type, end.exc_value, end.exc_traceback)


def _log_crash(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), trace)
    else:
        logger.error("crashed", exc_info=(kind, error or kind(), trace))
