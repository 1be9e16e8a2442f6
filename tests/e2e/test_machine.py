"""The program and the images on one machine, as in docs/without-kubernetes.md."""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.podman import answers, podman
from tests.support.documents import blocks
from tests.support.processes import ROOT, free_port, until

PODMAN_COMPOSE = (str(ROOT / ".uv/bin/uvx"), "--python", sys.executable, "podman-compose@1.6.0")
START_SECONDS = 60
IRIS = {"data": [[5.1, 3.5, 1.4, 0.2]]}


@dataclass
class Project:
    """A project of podman-compose with its own volume, network and port."""

    name: str
    port: int
    settings: Path

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        run = subprocess.run(
            [*PODMAN_COMPOSE, "--project-name", self.name, *arguments],
            cwd=ROOT,
            env={**os.environ, "PORT": str(self.port), "SETTINGS": str(self.settings)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or run.returncode == 0, run.stdout + run.stderr
        return run

    def until_serves(self) -> None:
        until(lambda: answers(f"http://127.0.0.1:{self.port}/readyz"), START_SECONDS)
        answer = httpx.post(f"http://127.0.0.1:{self.port}/predict/label", json=IRIS)
        assert answer.json() == {"prediction": "setosa"}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(f"e2e-{secrets.token_hex(4)}", free_port(), tmp_path / "model.env")
    project.settings.write_text("USE_LOCAL_MODEL=true\n")
    try:
        yield project
    finally:
        project.compose("down", "--volumes")


def test_compose_serves_only_a_verified_model(project: Project) -> None:
    project.compose("up", "--detach")
    project.until_serves()
    server = f"{project.name}_server_1"
    podman("healthcheck", "run", server)
    assert "Uid:\t65532" in podman("exec", server, "cat", "/proc/1/status")
    for directory, writable in {"/tmp": True, "/app": False, "/workdir": False}.items():  # noqa: S108 (the container's)
        written = subprocess.run(["podman", "exec", server, "touch", f"{directory}/x"], check=False)  # noqa: S607
        assert (written.returncode == 0) == writable

    project.settings.write_text(f"USE_LOCAL_MODEL=true\nMODEL_SHA256={'0' * 64}\n")
    refused = project.compose("run", "--rm", "loader", check=False)
    assert refused.returncode == 5
    assert "but MODEL_SHA256 is" in refused.stdout + refused.stderr
    project.compose("restart", "server")
    project.until_serves()


def test_commands_of_the_systemd_unit_serve(tmp_path: Path) -> None:
    [block] = [block for block in blocks("ini") if block.text.startswith("[Unit]")]
    state = tmp_path / "private"
    state.mkdir()
    (tmp_path / "model-load-server").symlink_to(state)  # as with DynamicUser
    port = free_port()
    text = block.text.replace("/opt/model-load-server/venv/bin/python", str(ROOT / ".venv-serve/bin/python"))
    text = text.replace("%S", str(tmp_path)).replace("%T", str(tmp_path)).replace("--port 3000", f"--port {port}")
    text = text.replace("/opt/model-load-server", str(ROOT))
    settings = tmp_path / "model-load-server.env"
    settings.write_text("USE_LOCAL_MODEL=true\n")
    unit = tmp_path / "model-load-server.service"
    unit.write_text(text.replace("/etc/model-load-server.env", str(settings)))
    if analyze := shutil.which("systemd-analyze"):
        subprocess.run([analyze, "verify", "--man=no", unit], check=True)

    lines = [line.partition("=")[::2] for line in text.splitlines()]
    environment = {"PATH": os.environ["PATH"], "USE_LOCAL_MODEL": "true"}
    for value in (value for name, value in lines if name == "Environment"):
        environment |= dict(word.split("=", 1) for word in shlex.split(value))
    commands = {name: shlex.split(value) for name, value in lines}
    directory = dict(lines)["WorkingDirectory"]
    subprocess.run(commands["ExecStartPre"], cwd=directory, env=environment, check=True)
    with subprocess.Popen(commands["ExecStart"], cwd=directory, env=environment) as server:
        until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), START_SECONDS)
        assert httpx.post(f"http://127.0.0.1:{port}/predict/label", json=IRIS).json() == {"prediction": "setosa"}
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
