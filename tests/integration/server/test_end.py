"""How the server stops: by a signal under full load, when a process is killed, or when the model crashes."""

import signal
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.support.load import under_load
from tests.support.nightly import ROUNDS
from tests.support.processes import BENTOML_SERVE, IRIS, ONE_PROCESS, ROOT, children, serving, until


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


CRASHING = """
import ctypes

from model_server.model.classifier import Classifier
from service import ModelLoadServer

probabilities = Classifier.probabilities

def crash(self, rows):
    if rows[0, 0] == 7:
        ctypes.string_at(0)  # crashes like a faulty ONNX Runtime kernel
    return probabilities(self, rows)

Classifier.probabilities = crash
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
