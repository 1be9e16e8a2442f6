"""Trouble on the machine: a slow start, a full disk, a jump of the clock, and not enough memory."""

import resource
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.processes import (
    BENTOML_SERVE,
    IRIS,
    ONE_PROCESS,
    ROOT,
    Server,
    free_port,
    in_new_interpreter,
    serving,
    starting,
    until,
)

KIB = 1 << 10
SLOW_START = """
import time
from contextlib import suppress
from pathlib import Path

from model_server.model.predictor import Predictor
from service import ModelLoadServer

HERE = Path(__file__).parent
predict = Predictor.predict

def slow(self, rows):
    (HERE / "begun").touch()
    while (HERE / "gate").exists():
        time.sleep(0.02)
    return predict(self, rows)

Predictor.predict = slow
"""
JUMPING = """
import time
from contextlib import suppress
from pathlib import Path

from model_server.model.model import Model
from service import ModelLoadServer

HERE = Path(__file__).parent
real = time.time
predict = Model.predict

def jumped():
    return real() + (float((HERE / "jump").read_text()) if (HERE / "jump").exists() else 0)

def gated(self, rows):
    while (HERE / "gate").exists() and rows[0, 0] == 9:
        (HERE / "begun").touch()
        time.sleep(0.02)
    return predict(self, rows)

time.time = jumped
Model.predict = gated
Model.estimate_latency = lambda self, rows: 1 if rows == 2 else 0
"""
GATED_ROWS = [[9, 9, 9, 9], [1, 1, 1, 1]]  # two rows go to a thread
DAY = 86_400
MANY_ROWS = b'{"data": [' + b"[5.1, 3.5, 1.4, 0.2], " * 300_000 + b"[5.1, 3.5, 1.4, 0.2]]}"
HEADROOM = (0, 16 * KIB * KIB)  # bytes: too few for the body, and for the array built from it


def test_is_not_ready_before_the_first_inference(tmp_path: Path) -> None:
    (tmp_path / "slow_start.py").write_text(SLOW_START)
    (tmp_path / "gate").touch()
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    port = free_port()
    with (
        starting(tmp_path, environment, "slow_start:ModelLoadServer", port, ONE_PROCESS) as (process, _),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        until((tmp_path / "begun").exists, 60)
        for path in ("/readyz", "/livez"):
            with pytest.raises(httpx.TransportError):
                client.get(path, timeout=0.5)
        assert process.poll() is None
        (tmp_path / "gate").unlink()
        assert client.get("/readyz", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "command", list(map(in_new_interpreter, (BENTOML_SERVE, ONE_PROCESS))), ids=["bentoml serve", "one process"]
)
def test_a_full_disk(tmp_path: Path, small_disk: Path, command: Sequence[str]) -> None:
    with pytest.raises(OSError, match="No space"):
        (small_disk / "all").write_bytes(bytes(8 * KIB * KIB))
    assert shutil.disk_usage(small_disk).free == 0
    environment = {name: str(small_disk) for name in ("TMPDIR", "HOME", "BENTOML_HOME")}
    with serving(tmp_path, {**IRIS, **environment}, command=command) as server:
        assert len(server.predict([[5.1, 3.5, 1.4, 0.2]] * 10_000)) == 10_000
        for path in ("/readyz", "/livez", "/metrics"):
            assert server.client.get(path).status_code == 200


def test_a_jump_of_the_clock(tmp_path: Path) -> None:
    (tmp_path / "jumping.py").write_text(JUMPING)
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with (
        serving(tmp_path, environment, "jumping:ModelLoadServer", ONE_PROCESS) as server,
        ThreadPoolExecutor() as clients,
        httpx.Client(base_url=server.url) as kept,
    ):
        for jump in (DAY, -DAY):
            (tmp_path / "gate").touch()
            (tmp_path / "begun").unlink(missing_ok=True)
            waiting = clients.submit(server.predict, GATED_ROWS)
            until((tmp_path / "begun").exists)
            assert kept.get("/readyz").status_code == 200
            (tmp_path / "next").write_text(str(jump))
            (tmp_path / "next").rename(tmp_path / "jump")
            assert kept.get("/readyz").status_code == 200
            assert len(server.predict([[5.1, 3.5, 1.4, 0.2]])) == 3
            assert not waiting.done()
            (tmp_path / "gate").unlink()
            assert len(waiting.result()) == 2


def test_without_memory(tmp_path: Path) -> None:
    """Without enough memory, a request gets 500 or 503, or the connection or the process ends; nothing hangs."""
    with serving(tmp_path, IRIS, command=ONE_PROCESS) as server:
        process = server.process.pid
        for headroom in HEADROOM:
            size = int(Path(f"/proc/{process}/status").read_text().partition("VmSize:")[2].split()[0]) * KIB
            resource.prlimit(process, resource.RLIMIT_AS, (size + headroom, resource.RLIM_INFINITY))
            outcomes = {ask_much(server) for _ in range(4)}
            assert outcomes <= {200, 500, 503, None}
            with suppress(ProcessLookupError):
                resource.prlimit(process, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if None in outcomes and has_ended(server):
                assert server.process.returncode != 0
                return
            assert len(server.predict([[5.1, 3.5, 1.4, 0.2]] * 10_000)) == 10_000
            assert server.client.get("/readyz").status_code == 200


def has_ended(server: Server) -> bool:
    """Return whether the server's process has ended; a running server answers."""
    try:
        server.client.get("/readyz")
    except httpx.TransportError:
        server.process.wait(timeout=10)
    return server.process.poll() is not None


def ask_much(server: Server) -> int | None:
    """Return the status of the answer to a large body, or None if the connection broke."""
    try:
        response = server.client.post("/predict", content=MANY_ROWS)
    except httpx.TransportError:
        return None
    assert response.status_code == 200 or list(response.json()) == ["detail"]
    return response.status_code
