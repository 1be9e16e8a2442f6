"""How the server stops: by a signal under full load, when a process is killed, or when the model crashes."""

import os
import pty
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.load import under_load
from tests.support.nightly import ROUNDS
from tests.support.processes import BENTOML_SERVE, IRIS, ONE_PROCESS, ROOT, children, free_port, serving, until


@pytest.mark.parametrize("_round", range(ROUNDS))
@pytest.mark.parametrize("command", [BENTOML_SERVE, ONE_PROCESS], ids=["bentoml serve", "one process"])
def test_accepted_requests_are_answered(tmp_path: Path, command: Sequence[str], _round: int) -> None:
    with serving(tmp_path, IRIS, command=command) as server, under_load(server) as load:
        until(lambda: load.answered > 100, 60)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
    assert load.broken == []


def test_no_worker_outlives_its_process_manager(tmp_path: Path) -> None:
    with serving(tmp_path, IRIS) as server:
        [worker] = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        until(lambda: has_ended(worker))
        with pytest.raises(httpx.TransportError):
            server.client.get("/readyz")


def has_ended(process: int) -> bool:
    """Return whether the process has exited, including a zombie whose parent has not reaped it."""
    try:
        return "State:\tZ" in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("is_closed", [True, False], ids=["terminal closed", "make terminated"])
def test_make_serve_ends_with_its_terminal_and_with_make(tmp_path: Path, *, is_closed: bool) -> None:
    """Make leads the session, as in `ssh -t host make serve`, so the kernel signals no other process."""
    port = free_port()
    variables = {
        "VENV": os.path.relpath(sys.prefix, ROOT),
        "PORT": str(port),
        "MODEL_FILEPATH": str(tmp_path / "model.onnx"),
        "LABEL_FILEPATH": str(tmp_path / "label.json"),
    }
    make, terminal = pty.fork()
    if make == 0:
        os.chdir(ROOT)
        os.environ["BENTOML_HOME"] = str(tmp_path)
        os.execvp("make", ["make", "serve", *(f"{name}={value}" for name, value in variables.items())])  # noqa: S606, S607

    def answers() -> bool:
        while not is_over and select.select([terminal], [], [], 0)[0]:
            os.read(terminal, 4096)
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        return False

    is_over = False
    try:
        until(answers, 120)
        is_over = True
        if is_closed:
            os.close(terminal)
        else:
            os.kill(make, signal.SIGTERM)
        until(lambda: not answers(), 30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(make, signal.SIGKILL)
        os.waitpid(make, 0)


CRASHING = """
import ctypes

from model_server.model.predictor import Predictor
from service import ModelLoadServer

predict = Predictor.predict

def crash(self, rows):
    if rows[0, 0] == 7:
        ctypes.string_at(0)  # crashes like a faulty ONNX Runtime kernel
    return predict(self, rows)

Predictor.predict = crash
"""


def test_a_crash_in_the_model_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving(tmp_path, environment, "crashing:ModelLoadServer", ONE_PROCESS) as server:
        with pytest.raises(httpx.TransportError):
            server.predict([[7, 7, 7, 7]])
        assert server.process.wait(timeout=10) == -signal.SIGSEGV
        with pytest.raises(httpx.TransportError):
            server.client.get("/readyz")
