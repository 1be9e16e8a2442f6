"""Limits of a load: time, memory and disk space."""

import itertools
import signal
import subprocess
import textwrap
import threading
from pathlib import Path

import pytest

from tests.integration.loader.conftest import LABELS, MODEL, Pair, make_model
from tests.integration.loader.fault_server import Exchange, FaultServer, StoredObject
from tests.integration.loader.running import Run, Target, assert_failed
from tests.support.processes import interpreter

_MIB = 1 << 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_load_immediately(target: Target, server: FaultServer, number: signal.Signals) -> None:
    asked = threading.Event()

    def wait(exchange: Exchange) -> None:
        asked.set()
        exchange.wait_for_the_end()

    server.on("media", iter([wait]))
    # Without coverage: a signal handler that raises in its lock_data() would leave the lock held and block all threads.
    with target.start(coverage_process_config="", coverage_process_start="") as process:
        assert asked.wait(10)
        process.send_signal(number)
        output, error = process.communicate(timeout=1)
    assert_failed(Run(process.returncode, output, error), 9, number.name, MODEL)
    target.assert_empty()


@pytest.mark.parametrize(("cause", "exit_code"), [("signal", 9), ("deadline", 6)])
def test_a_stuck_main_thread_is_killed(cause: str, exit_code: int) -> None:
    """A thread that blocks the signals simulates one that is stuck in an uninterruptible call."""
    program = """
        import signal, sys, threading, time
        from loader.watchdog import watchdog

        with watchdog(float(sys.argv[1]), lambda: "stuck", lambda error: print(error, flush=True)):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
            threading.Timer(0.5, print, ("ready",), {"flush": True}).start()  # once the main thread sleeps
            while True:
                time.sleep(60)
        """
    command = [interpreter("loader"), "-c", textwrap.dedent(program), "60" if cause == "signal" else "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if cause == "signal":
            process.terminate()
        output, _ = process.communicate(timeout=10)
    assert process.returncode == exit_code
    assert "while stuck" in output


def test_memory_does_not_grow_with_the_model(target: Target, server: FaultServer) -> None:
    model = make_model(150 * _MIB)
    server.objects[MODEL] = StoredObject(model)
    peaks: list[int] = []

    def measure(exchange: Exchange) -> None:
        if exchange.name == LABELS:  # the model has been downloaded by now
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks.append(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
        exchange.media()

    server.on("media", itertools.repeat(measure))
    with target.start(download_workers=4) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert max(peaks) < 120 * 10**6 < len(model)


def test_a_full_disk_is_reported_before_the_download(target: Target, server: FaultServer, small_disk: Path) -> None:
    server.objects[MODEL] = StoredObject(make_model(5 * _MIB))
    target.directory = small_disk
    for dry_run in ("true", "false"):
        assert_failed(target.load(dry_run=dry_run), 7, str(small_disk), MODEL)
    assert not any(line.startswith("media") for line in server.requests)
    target.assert_empty()


def test_a_disk_that_fills_up_during_the_load_is_reported(
    target: Target, server: FaultServer, small_disk: Path
) -> None:
    server.objects[MODEL] = StoredObject(make_model(3 * _MIB))
    target.directory = small_disk

    def fill(exchange: Exchange) -> None:
        (small_disk / "other").write_bytes(bytes(2 * _MIB))
        exchange.media()

    server.on("media", iter([fill]))

    assert_failed(target.load(), 7, str(small_disk))
    target.assert_empty()
    assert target.temporaries() == []


def test_a_read_only_target_is_reported(target: Target, small_disk: Path) -> None:
    target.directory = small_disk
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)  # noqa: S607
    for dry_run in ("true", "false"):
        assert_failed(target.load(dry_run=dry_run), 4, str(small_disk), "Read-only")
    target.assert_empty()


def test_a_missing_target_directory_is_created(target: Target, pair: Pair) -> None:
    target.directory /= "not/there/yet"
    assert target.load().exit_code == 0
    target.assert_holds(*pair)


def test_a_target_directory_that_cannot_be_created_is_reported(target: Target) -> None:
    (target.directory / "file").touch()
    target.directory /= "file/below"
    assert_failed(target.load(), 1, str(target.directory), "Not a directory")


def test_two_loads_cannot_share_a_target(target: Target, server: FaultServer, pair: Pair) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def wait(exchange: Exchange) -> None:
        asked.set()
        go_on.wait(10)
        exchange.media()

    server.on("media", iter([wait]))
    with target.start() as first:
        assert asked.wait(10)
        assert_failed(target.load(), 1, "another loader")
        go_on.set()
        first.communicate(timeout=20)
    assert first.returncode == 0
    target.assert_holds(*pair)
