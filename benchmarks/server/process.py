"""The process tree of a server, and its use of CPU and memory."""

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.server.servers import Server, environment
from tests.support.processes import free_port

_START_SECONDS = 60
_SETTLE_SECONDS = 30
_PAUSE_SECONDS = 0.1


@dataclass
class Running:
    """A server that has answered its first prediction.

    Attributes:
        port: its port on 127.0.0.1.
        start_seconds: time from the start to this answer.
    """

    port: int
    start_seconds: float
    _root: psutil.Process

    def cpu_seconds(self) -> float:
        """Return the user and system time of the whole tree so far, including processes that have ended."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_mb(self) -> float:
        """Return the memory of the whole tree, with shared memory counted once (PSS)."""
        return sum(process.memory_full_info().pss for process in self._tree()) / 1e6

    def settle(self) -> None:
        """Wait until the server is idle. Some servers continue requests whose client has disconnected."""
        end = time.monotonic() + _SETTLE_SECONDS
        busy = True
        while busy and time.monotonic() < end:
            before = self.cpu_seconds()
            time.sleep(_PAUSE_SECONDS)
            busy = self.cpu_seconds() - before > _PAUSE_SECONDS / 4

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


@contextlib.contextmanager
def running(server: Server, model: Path, labels: Path, directory: Path, first_row: bytes) -> Iterator[Running]:
    """Start a server with a model, yield it once it has answered a row, and stop all its processes afterwards."""
    port = free_port()
    home = directory / "home"
    home.mkdir(parents=True)
    command = server.start(port, directory)
    with (directory / "server.log").open("wb") as log:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=server.working_directory,
            env=environment(server, model, labels, port, home),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not _answers(port, server, first_row):
            if process.poll() is not None or time.monotonic() - start > _START_SECONDS:
                raise RuntimeError(f"{server.name} did not start:\n{(directory / 'server.log').read_text()}")
            time.sleep(0.01)
        yield Running(port, time.monotonic() - start, psutil.Process(process.pid))
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(port: int, server: Server, body: bytes, timeout: float = 60) -> tuple[int, bytes]:
    """Post a body to a server and return the status and the answer."""
    headers = {"Content-Type": "application/json"}
    if server.json_length:
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(server.json_length),
        }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("POST", server.predict, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def _answers(port: int, server: Server, body: bytes) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return post(port, server, body, timeout=5)[0] == http.client.OK
    return False
