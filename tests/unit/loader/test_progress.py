"""Progress output on a terminal and in a log."""

import io
import json
import re

import pytest

from loader.progress import Plan, PlannedFile, Progress
from volume.log import LogLevel


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time, as a list with one number that a test can change."""
    now = [100.0]
    monkeypatch.setattr("loader.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_progress_at_most_every_five_seconds(clock: list[float]) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start("gs://b/o", 1000, "7")
    for clock[0] in range(101, 112):
        progress.advance(50)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["start", "progress", "progress"]
    assert (lines[1]["bytes"], lines[1]["bytes_per_second"], lines[1]["seconds_left"]) == (250, 50, 15.0)


def test_a_terminal_gets_a_bar(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.start("gs://b/o", 4_000_000, "7")
    clock[0] += 1
    progress.advance(1_000_000)
    bar = stream.getvalue().rpartition("\r")[2]
    assert "25% of 4 MB, 1 MB/s, 3 s left" in bar
    assert bar.count("#") == 8


def test_bytes_of_an_earlier_run_do_not_count_as_speed(clock: list[float]) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start("gs://b/o", 1000, "7")
    progress.resume(900)
    clock[0] += 5
    progress.advance(50)
    assert json.loads(stream.getvalue().splitlines()[-1])["bytes_per_second"] == 10


def test_the_activity_contains_the_progress() -> None:
    progress = Progress(io.StringIO())
    assert progress.activity() == "starting"
    progress.start("gs://b/o", 1000, "7")
    progress.advance(10)
    assert progress.activity() == "fetching gs://b/o (10 of 1000 bytes received)"
    progress.retry("the response was 503", 1)
    assert progress.activity().endswith(", last failure: the response was 503")
    progress.advance(10)
    assert progress.activity() == "fetching gs://b/o (20 of 1000 bytes received)"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_closed_stream_is_not_an_error(kind: type[io.StringIO]) -> None:
    stream = kind()
    progress = Progress(stream)
    stream.close()
    progress.retry("the response was 503", 1.5)
    assert progress.retries == 1


def test_the_stream_is_optional() -> None:
    progress = Progress(None)
    progress.retry("the response was 503", 1.5)
    assert progress.retries == 1


def test_retries_are_counted() -> None:
    progress = Progress(Terminal())
    progress.retry("the response was 503", 1.5)
    assert progress.retries == 1


def planned(bucket: str) -> Plan:
    files = [
        PlannedFile(
            uri=f"gs://{bucket}/{name}", version="7", size=2_000_000, checksums={"crc32c": "AAAAAA=="}, sha256=sha256,
            target=f"/workdir/{name}", in_place=bool(sha256),
        )
        for name, sha256 in (("model.onnx", None), ("label.json", "f" * 64))
    ]  # fmt: skip
    return Plan(artifacts=tuple(files), all_known=False, in_place=False, bytes_free=5_000_000_000, credentials="none")


def test_a_dry_run_is_readable_on_a_terminal() -> None:
    stream = Terminal()
    Progress(stream).would_load(planned("b"))
    assert stream.getvalue().removeprefix("\r\x1b[K").splitlines() == [
        "loader: would load, with 5 GB free, credentials: none",
        "  gs://b/model.onnx to /workdir/model.onnx (2 MB, version 7, crc32c AAAAAA==)",
        f"  gs://b/label.json is in place at /workdir/label.json (2 MB, version 7, sha256 {'f' * 64})",
        "  and its external data files, which are known once the model has been downloaded",
    ]


def test_a_plan_can_contain_names_in_any_bytes() -> None:
    stream = io.StringIO()
    Progress(stream).would_load(planned("\udcff"))
    assert json.loads(stream.getvalue())["artifacts"][0]["uri"] == "gs://\\udcff/model.onnx"


def test_a_name_cannot_control_a_terminal() -> None:
    stream = Terminal()
    Progress(stream).start("gs://b/\x1b[2Ja\udcff\n", 1000, "7")
    assert stream.getvalue() == "\r\x1b[Kloader: loading gs://b/\\x1b[2Ja\\udcff\\n (1 kB)\n"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_events_below_the_level_are_not_logged(kind: type[io.StringIO], clock: list[float]) -> None:
    stream = kind()
    progress = Progress(stream)
    progress.level = LogLevel.WARNING
    progress.start("gs://b/o", 1000, "7")
    clock[0] += 10
    progress.advance(500)
    assert stream.getvalue() == ""
    progress.retry("the response was 503", 1.5)
    assert "the response was 503" in stream.getvalue()


def test_each_line_has_the_same_first_fields() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start("gs://b/a\udcff", 1000, "7")
    progress.model = "0" * 64
    progress.retry("the response was 503", 1.5)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert list(first)[:4] == ["time", "level", "event", "uri"]
    assert (list(second)[:4], second["model"]) == (["time", "level", "event", "model"], "0" * 64)
    assert (first["level"], second["level"], first["uri"]) == ("info", "warning", "gs://b/a\\udcff")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
