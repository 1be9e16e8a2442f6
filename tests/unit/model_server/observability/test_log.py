"""The log writes whole lines and never waits for its reader."""

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from model_server.observability.log import Log
from tests.support.processes import ROOT
from volume.log import LogLevel


@pytest.fixture
def pipe() -> Iterator[tuple[Log, int]]:
    """A log that writes to a pipe, and the read end of the pipe."""
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"):  # noqa: PTH123 (pipes have no path)
        yield Log(writer), reader


def record(name: str, level: int, message: str, *arguments: object, fields: object = None) -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, message, arguments, (ValueError, ValueError("why"), None))
    if fields:
        made.__dict__["fields"] = fields
    return made


def test_records_from_all_loggers_begin_with_the_same_fields(pipe: tuple[Log, int]) -> None:
    log, reader = pipe
    log.handle(record("model_server", logging.ERROR, "request_failed", fields={"request_id": "7"}))
    log.model = "0" * 64
    log.handle(record("some.library", logging.CRITICAL, "%s is\n%s", "it", "so"))
    log.handle(logging.LogRecord("some.library", 5, __file__, 1, "less than debug", (), None))
    ours, theirs, least = map(json.loads, os.read(reader, 1 << 16).splitlines())
    assert list(ours) == ["time", "level", "event", "request_id", "trace"]
    assert (ours["level"], ours["event"], ours["trace"]) == ("error", "request_failed", "ValueError: why")
    assert list(theirs) == ["time", "level", "event", "model", "logger", "message", "trace"]
    assert (theirs["level"], theirs["event"], theirs["message"]) == ("error", "message", "it is\nso")
    assert (least["level"], least["message"]) == ("debug", "less than debug")


def test_events_below_the_level_are_omitted(pipe: tuple[Log, int]) -> None:
    log, reader = pipe
    log.setLevel(LogLevel.WARNING.number)
    log.write(LogLevel.INFO, "request")
    log.write(LogLevel.WARNING, "request")
    [line] = os.read(reader, 1 << 16).splitlines()
    assert json.loads(line)["level"] == "warning"


def test_an_unread_log_never_blocks_and_counts_dropped_lines(pipe: tuple[Log, int]) -> None:
    log, reader = pipe
    written = 2000
    for number in range(written):
        log.write(LogLevel.ERROR, "request", number=number, words="x" * 100)
    read = os.read(reader, 1 << 20)
    log.write(LogLevel.ERROR, "last")
    log.flush()
    lines = [json.loads(line) for line in (read + os.read(reader, 1 << 20)).splitlines()]
    assert [line["number"] for line in lines[:-1]] == list(range(len(lines) - 1))
    assert lines[-1]["event"] == "last"
    assert lines[-1]["suppressed"] == written - (len(lines) - 1)


def test_a_line_larger_than_the_pipe_is_completed(pipe: tuple[Log, int]) -> None:
    log, reader = pipe
    log.write(LogLevel.ERROR, "crashed", trace="x" * 150_000)
    log.write(LogLevel.ERROR, "left out")
    read = b""
    while not read.endswith(b"}\n"):
        read += os.read(reader, 1 << 20)
        log.flush()
    assert len(json.loads(read)["trace"]) == 150_000
    log.write(LogLevel.ERROR, "next")
    assert json.loads(os.read(reader, 1 << 20))["suppressed"] == 1


def test_a_closed_reader_is_not_an_error() -> None:
    reader, writer = os.pipe()
    log = Log(writer)
    os.close(reader)
    log.write(LogLevel.ERROR, "request")
    os.close(writer)
    log.write(LogLevel.ERROR, "request")
    Log(writer).write(LogLevel.ERROR, "request")


def test_a_terminal_gets_text() -> None:
    controller, terminal = pty.openpty()
    with closing(os.fdopen(controller, "rb")) as shown, closing(os.fdopen(terminal, "wb")):
        log = Log(terminal)
        log.model = "0" * 64
        log.write(LogLevel.WARNING, "request", request_id="7", status=400, reason=None)
        log.handle(record("some.library", logging.ERROR, "it broke"))
        first, second, third = (shown.readline().decode().rstrip().partition(" ") for _ in range(3))
    assert first[2] == "WARNING request request_id=7 status=400"
    assert second[2] == "ERROR it broke logger=some.library"
    assert "".join(third) == "ValueError: why"


def test_a_file_gets_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = Log(file.fileno())
        for _ in range(100):
            log.write(LogLevel.ERROR, "crashed", trace="x" * 10_000)
    assert len((tmp_path / "log").read_text().splitlines()) == 100


EVERYTHING = """
import logging, sys, threading, warnings
from bentoml._internal.log import configure_server_logging
from model_server.adapters.bento import configure_logging as configure
from model_server.observability.log import log_failure

configure_server_logging()
configure()
configure_server_logging()
for name in ("bentoml.serve", "uvicorn.error", "circus", "asyncio"):
    logging.getLogger(name).error("from %s", name)
warnings.warn("beware")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
log_failure("it cannot go on", "stuck")
raise RuntimeError("the end")
"""


def test_every_message_of_a_process_is_one_line() -> None:
    run = subprocess.run([sys.executable, "-c", EVERYTHING], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(line["level"], line.get("logger", line["event"])) for line in lines] == [
        ("error", "bentoml.serve"),
        ("error", "uvicorn.error"),
        ("error", "circus"),
        ("error", "asyncio"),
        ("warning", "py.warnings"),
        ("error", "crashed"),
        ("error", "crashed"),
    ]
    assert "UserWarning: beware" in lines[-3]["message"]
    assert "ZeroDivisionError" in lines[-2]["trace"]
    assert lines[-1]["trace"].endswith("RuntimeError: the end")
    [failure] = map(json.loads, run.stderr.splitlines())
    assert (failure["event"], failure["error"], run.returncode) == ("failed", "it cannot go on", 1)
