"""The real programs, each in its own process."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.forks import Fork, Forks

ROOT = Path(__file__).parents[2]
IRIS = {
    "MODEL_FILEPATH": str(ROOT / "models" / "iris_svc.onnx"),
    "LABEL_FILEPATH": str(ROOT / "models" / "label.json"),
}
# Makes the services that only tests serve importable.
SERVICES = {"PYTHONPATH": f"{ROOT / 'tests' / 'integration' / 'server' / 'services'}:{ROOT}"}
# In a fork of a process that has imported their modules, which starts sooner. The worker of BentoML is a new process.
BENTOML_SERVE = ("fork", "bentoml", "serve")
ONE_PROCESS = ("fork", "model_server", "serve")
_IMPORTED = (
    *(f"model_server.{name}" for name in ("adapters.bento", "adapters.uvicorn", "http.documents", "http.server")),
    *(f"_bentoml_impl.{name}" for name in ("client.proxy2", "server.app", "server.serving")),
    *("bentoml._internal.server.http.traffic", "model_server.model.model", "opentelemetry.instrumentation.asgi"),
    *("bentoml_cli.cli", "pydantic.v1", "uvicorn.lifespan.on", "uvicorn.protocols.websockets.auto", "uvloop"),
)
_START_SECONDS = 60
_PORTS = (20000, 32000)  # below the kernel's range of ephemeral ports
# The server may close an idle connection at the moment that a test uses it again.
_NO_IDLING = httpx.Limits(max_keepalive_connections=0)

Process = subprocess.Popen[bytes] | Fork


@dataclass
class Server:
    """A running server.

    Attributes:
        url: the URL that it listens on.
        process: the process.
        log: the file with its output.
        client: an HTTP client for it.
    """

    url: str
    process: Process
    log: Path
    client: httpx.Client

    def predict(self, rows: object, route: str = "/predict") -> Any:
        """Return the prediction for these rows; the request must succeed."""
        response = self.client.post(route, json={"data": rows})
        assert response.status_code == 200, response.text
        return response.json()["prediction"]

    def resident_bytes(self) -> int:
        """Return the resident memory of the server's processes."""
        total = 0
        pids = [self.process.pid]
        while pids:
            pid = pids.pop()
            pids += children(pid)
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0]) * 1024
        return total

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the metric's samples that have these labels."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def interpreter(environment: Literal["loader", "service", "serve", "signing", "clients"]) -> str:
    """Return the Python interpreter of an environment that `make environments` builds next to this process's own.

    Args:
        environment: `loader` and `service` have the packages of their images, and coverage; `serve` is the environment
            of `make serve`, without coverage; `signing` signs models; `clients` has clients of the Open Inference
            Protocol. SERVICE_PYTHON overrides the interpreter for `service`.

    Raises:
        FileNotFoundError: the environment is missing.
    """
    if environment == "service" and "SERVICE_PYTHON" in os.environ:
        return os.environ["SERVICE_PYTHON"]
    python = Path(f"{sys.prefix}-{environment}", "bin", "python")
    if not python.exists():
        raise FileNotFoundError(
            f"{python} is missing: run `make environments VENV={os.path.relpath(sys.prefix, ROOT)}`"
        )
    return str(python)


@contextlib.contextmanager
def serving(  # noqa: PLR0917
    home: Path,
    environment: Mapping[str, str],
    target: str = ".",
    command: Sequence[str] = BENTOML_SERVE,
    port: int | None = None,
    prefix: str = "",
) -> Iterator[Server]:
    """Run a server, yield it once it is ready, and stop it at the end.

    Args:
        home: the directory for BentoML's files and the log.
        environment: variables in addition to those of this process.
        target: the service or the directory to serve.
        command: the arguments for Python that serve it.
        port: the port to listen on; None for any.
        prefix: the prefix of the routes' paths.
    """
    port = port or free_port()
    with (
        starting(home, environment, target, port, command) as (process, log),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_START_SECONDS, limits=_NO_IDLING) as client,
    ):
        until(lambda: is_ready(process, client, log, prefix), _START_SECONDS)
        yield Server(str(client.base_url), process, log, client)
        until(lambda: process.poll() is not None or not _requests_in_flight(client))


@contextlib.contextmanager
def starting(  # noqa: PLR0917
    home: Path,
    environment: Mapping[str, str],
    target: str = ".",
    port: int | None = None,
    command: Sequence[str] = BENTOML_SERVE,
    cwd: Path = ROOT,
) -> Iterator[tuple[Process, Path]]:
    """Start a server, and end all its processes afterwards; the arguments are those of `serving`.

    Yields:
        The process, and the file with its output.
    """
    log = home / "serve.log"
    log.write_bytes(b"")
    variables = service_environment(home, environment)
    arguments = [*command[1:], target, "--host", "127.0.0.1", "--port", str(port or free_port())]
    process: Process
    if command[0] == "fork":
        process = _forks().start(arguments[0], arguments[1:], variables, log, log, cwd)
    else:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [interpreter("service"), command[0], *arguments],
                cwd=cwd,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    try:
        yield process, log
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def in_new_interpreter(command: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments for Python that run the command as users do, without a fork."""
    return ("-m", *command[1:])


@cache
def _forks() -> Forks:
    return Forks(interpreter("service"), service_environment(ROOT / ".bentoml", {}), ROOT, _IMPORTED)


def run_loader(environment: Mapping[str, str]) -> None:
    """Run the loader, which must succeed, with these variables in addition to those of this process."""
    subprocess.run([interpreter("loader"), "-m", "loader"], cwd=ROOT, env={**os.environ, **environment}, check=True)


def events(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; each must be JSON and begin with the same fields."""
    whole, _, _ = log.read_text().rpartition("\n")
    lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
    for line in lines:
        assert list(line)[:3] == ["time", "level", "event"], line
    return lines


def service_environment(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with these variables and a separate BentoML home."""
    inherited = {name: value for name, value in os.environ.items() if name not in {*IRIS, "PYTHONPATH"}}
    return {**inherited, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **environment}


def children(parent: int) -> list[int]:
    """Return the ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def free_port() -> int:
    """Return a free TCP port on 127.0.0.1 that the kernel does not use for outgoing connections."""
    while True:
        port = random.randrange(*_PORTS)  # noqa: S311 (not a secret)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until the condition holds.

    Raises:
        TimeoutError: the condition did not hold within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"did not hold within {seconds} s")
        time.sleep(0.02)


def _requests_in_flight(client: httpx.Client) -> int:
    """Return the server's number of requests in flight; 0 if it shows no metrics."""
    with contextlib.suppress(httpx.TransportError):
        found = re.search(
            r"^bentoml_service_request_in_progress\{.*\} (\d+)", client.get("/metrics").text, re.MULTILINE
        )
        return int(found[1]) if found else 0
    return 0


def is_ready(process: subprocess.Popen[Any] | Fork, client: httpx.Client, log: Path, prefix: str = "") -> bool:
    """Return whether the server is ready.

    Raises:
        RuntimeError: its process has ended.
    """
    if process.poll() is not None:
        raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text()}")
    with contextlib.suppress(httpx.TransportError):
        return client.get(f"{prefix}/readyz").status_code == 200
    return False
