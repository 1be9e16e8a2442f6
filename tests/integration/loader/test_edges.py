"""The environment of a load: its output streams, HTTP proxies and malformed responses."""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.loader.conftest import MODEL, Pair
from tests.integration.loader.fault_server import Exchange, FaultServer
from tests.integration.loader.running import UNREACHABLE, Target, assert_failed
from tests.support.processes import interpreter

SECRET = "a-password-that-no-one-may-see"  # noqa: S105 (it opens nothing)


def run_in_shell(target: Target, command: str, **settings: str) -> tuple[int, str]:
    """Run the command with the target's settings; return its exit code and stderr."""
    outside = {name: value for name, value in os.environ.items() if name == "HOME" or "COVERAGE" in name}
    environment = {
        **outside,
        "PATH": os.pathsep.join([str(Path(interpreter("loader")).parent), os.environ["PATH"]]),
        "MODEL_FILEPATH": str(target.model),
        "LABEL_FILEPATH": str(target.labels),
        **target.settings,
        **settings,
    }
    run = subprocess.run(
        ["/bin/sh", "-c", command], env=environment, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    return run.returncode, run.stderr


def test_a_closed_log_does_not_fail_the_load(target: Target, pair: Pair, tmp_path: Path) -> None:
    status = tmp_path / "status"
    _, error = run_in_shell(target, f"( sleep 0.2; python -m loader; echo $? >{status} ) | true")
    assert (status.read_text(), error) == ("0\n", "")
    target.assert_holds(*pair)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>/dev/full", "2>&-"])
def test_failing_streams_do_not_change_the_exit_code(
    target: Target, server: FaultServer, pair: Pair, redirection: str
) -> None:
    assert run_in_shell(target, f"exec python -m loader {redirection}") == (0, "")
    target.assert_holds(*pair)
    server.objects.clear()
    assert run_in_shell(target, f"exec python -m loader {redirection}")[0] == 3
    assert run_in_shell(target, f"exec python -m loader --help {redirection} >/dev/full")[0] == 0


def test_a_log_closed_during_the_load_does_not_fail_it(target: Target, server: FaultServer, pair: Pair) -> None:
    gone = threading.Event()

    def wait(exchange: Exchange) -> None:
        gone.wait(10)
        exchange.media()

    server.on("media", iter([wait]))
    with target.start() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        gone.set()
        assert (process.wait(30), process.stderr.read()) == (0, "")
    target.assert_holds(*pair)


def test_a_deeply_nested_response_is_refused(target: Target, server: FaultServer) -> None:
    server.on("metadata", iter([lambda exchange: exchange.status(200, b'{"x":' + b"[" * 60_000)]))
    assert_failed(target.load(), 8, MODEL, "not object metadata")


def test_a_deeply_nested_error_response_is_reported(target: Target, server: FaultServer) -> None:
    server.on("metadata", iter([lambda exchange: exchange.status(403, b'{"x":' + b"[" * 60_000)]))
    assert_failed(target.load(), 4, MODEL, "403")


def test_an_out_of_range_retry_after_date_is_ignored(target: Target, server: FaultServer, pair: Pair) -> None:
    after = "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"
    server.on("metadata", iter([lambda exchange: exchange.status(503, Retry_After=after)]))
    run = target.load()
    assert (run.exit_code, run.error) == (0, "")
    target.assert_holds(*pair)


def test_an_unexpected_error_is_one_line(target: Target) -> None:
    assert_failed(target.load(gcs_model_blob="a\udcff"), 1, "UnicodeEncodeError")


def test_a_name_that_is_not_utf8_is_reported(target: Target, tmp_path: Path) -> None:
    target.termination_log.touch()
    run = target.load(use_local_model="true", local_model_filepath=f"{tmp_path}/a\udcff")
    assert_failed(run, 3, "a\\udcff")
    assert target.termination_log.read_text() == f"loader: {run.reason}\n"


def test_an_endpoint_with_a_password_is_refused_without_showing_it(target: Target) -> None:
    for variable in ("GCS_ENDPOINT", "STORAGE_EMULATOR_HOST"):
        run = target.load(**{variable.lower(): f"http://user:{SECRET}@127.0.0.1:1"})
        assert_failed(run, 2, variable)
        assert SECRET not in run.error + run.output


def test_sigterm_during_the_imports_ends_the_process(target: Target) -> None:
    # Without coverage, which installs its own handler.
    with target.start(coverage_process_config="", coverage_process_start="") as process:
        caught = 0
        while not caught >> (signal.SIGTERM - 1) & 1:
            fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            caught = int(fields["SigCgt"], 16)
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 9


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_credentials_are_sent_and_not_logged(
    target: Target, server: FaultServer, pair: Pair, scheme: str
) -> None:
    seen = []

    def note(exchange: Exchange) -> None:
        seen.append(exchange.handler.headers["Proxy-Authorization"])
        exchange.status(200, json.dumps(exchange.stored.resource()).encode())

    server.on("metadata", iter([note]))
    proxy = f"{scheme}user:{SECRET}%40%C3%BC@{server.url.removeprefix('http://')}"
    run = target.load(http_proxy=proxy, storage_emulator_host="bucket.invalid")
    assert (run.exit_code, run.error) == (0, "")
    target.assert_holds(*pair)
    assert seen == ["Basic " + base64.b64encode(f"user:{SECRET}@\u00fc".encode()).decode()]
    assert SECRET not in run.output


def test_a_refusing_proxy_is_named(target: Target, server: FaultServer) -> None:
    server.on("metadata", iter([lambda exchange: exchange.status(407)]))
    address = server.url.removeprefix("http://")
    run = target.load(http_proxy=f"http://user:{SECRET}@{address}", storage_emulator_host="bucket.invalid")
    assert_failed(run, 4, f"the proxy {server.url}", "407")
    assert SECRET not in run.error + run.output


def test_a_proxy_refusing_a_tunnel_is_named(target: Target) -> None:
    with refusing_proxy() as (address, heads):
        run = target.load(https_proxy=f"http://user:{SECRET}@{address}", storage_emulator_host="https://bucket.invalid")
    assert_failed(run, 4, f"the proxy http://{address}", "407")
    assert SECRET not in run.error + run.output
    assert heads[0].startswith("CONNECT bucket.invalid:443")
    assert f"Basic {base64.b64encode(f'user:{SECRET}'.encode()).decode()}" in heads[0]


def test_an_unreachable_proxy_is_named(target: Target) -> None:
    proxy = f"http://user:{SECRET}@127.0.0.1:1"
    run = target.load(http_proxy=proxy, storage_emulator_host="bucket.invalid", load_timeout_seconds=2)
    assert_failed(run, UNREACHABLE, "the proxy http://127.0.0.1:1", "Connection refused")
    assert SECRET not in run.error + run.output


@pytest.mark.parametrize(
    "proxy",
    [f"ftp://user:{SECRET}@host", f"http://user:{SECRET}@host:99999", f"http://user:1#{SECRET}@host", "http://"],
)
def test_an_invalid_proxy_url_is_a_usage_error(target: Target, proxy: str) -> None:
    run = target.load(http_proxy=proxy, storage_emulator_host="bucket.invalid")
    assert_failed(run, 2, "HTTP_PROXY")
    assert SECRET not in run.error + run.output


@contextmanager
def refusing_proxy() -> Iterator[tuple[str, list[str]]]:
    """Run a proxy that rejects all credentials; yield its address and the requests that it receives."""
    heads: list[str] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            heads.append(connection.recv(1 << 16).decode())
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join(10)
