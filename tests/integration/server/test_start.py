"""A service that cannot start logs the reason in one line and exits; a running one stops on a signal."""

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from model_server.errors import StartError
from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.classifiers import classifier, endless, save
from tests.support.processes import (
    BENTOML_SERVE,
    IRIS,
    ONE_PROCESS,
    Server,
    children,
    events,
    in_new_interpreter,
    serving,
    starting,
    until,
)
from volume.settings import SettingsError

SIGNALS = pytest.mark.parametrize(
    "asked", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.nightly)], ids=["SIGTERM", "SIGINT"]
)
CONTAINERS = pytest.mark.parametrize(
    "container",
    [pytest.param({}, marks=pytest.mark.nightly), {"BENTOML_CONTAINERIZED": "true"}],
    ids=["laptop", "container"],
)
COMMANDS = pytest.mark.parametrize("command", [BENTOML_SERVE, ONE_PROCESS], ids=["bentoml serve", "one process"])


def fail_to_start(
    home: Path, environment: dict[str, str], port: int | None = None, command: Sequence[str] = BENTOML_SERVE
) -> str:
    """Return the reason from the one line that is not BentoML's."""
    with starting(home, environment, port=port, command=command) as (process, log):
        assert process.wait(timeout=60) == 1
    [failure] = [line for line in events(log) if line["event"] != "message"]
    assert (failure["event"], failure["level"]) == ("failed", "error")
    return str(failure["error"])


def refusal(environment: dict[str, str]) -> str:
    """Return why the service would not start, found in this process."""
    with pytest.raises((SettingsError, StartError)) as refused:
        Model.load(Settings.read(environment))
    return str(refused.value)


def test_without_model_and_variables(tmp_path: Path) -> None:
    if Path("/workdir").exists():
        pytest.skip("this machine has a /workdir")
    line = fail_to_start(tmp_path, {})
    assert "MODEL_FILEPATH is /workdir/model.onnx: No such file or directory (run the loader first" in line
    line = refusal({"LABEL_FILEPATH": "/workdir/label.json", "MODEL_FILEPATH": IRIS["MODEL_FILEPATH"]})
    assert "LABEL_FILEPATH is /workdir/label.json: No such file or directory (run the loader first" in line


def test_without_label_file(tmp_path: Path) -> None:
    line = refusal({**IRIS, "LABEL_FILEPATH": str(tmp_path / "none.json")})
    assert f"LABEL_FILEPATH is {tmp_path}/none.json: No such file or directory" in line
    assert "MODEL_FILEPATH" not in line


@COMMANDS
def test_with_a_bad_setting(tmp_path: Path, command: Sequence[str]) -> None:
    line = fail_to_start(tmp_path, {**IRIS, "MAX_BODY_BYTES": "many"}, command=command)
    assert "MAX_BODY_BYTES is 'many': expected `int`" in line


@CONTAINERS
def test_with_a_file_that_is_not_a_model(tmp_path: Path, container: dict[str, str]) -> None:
    page = tmp_path / "model.onnx"
    page.write_text("<html>404 Not Found</html>")
    line = fail_to_start(tmp_path, {**IRIS, **container, "MODEL_FILEPATH": str(page)})
    assert f"MODEL_FILEPATH: {page} cannot be loaded as an ONNX model" in line


def test_with_labels_for_another_model(tmp_path: Path) -> None:
    model_path, _ = save(classifier(classes=5), tmp_path, [])
    line = refusal({**IRIS, "MODEL_FILEPATH": str(model_path)})
    assert "has 5 classes but LABEL_FILEPATH names 3" in line


def test_with_a_broken_label_file(tmp_path: Path) -> None:
    _, label_path = save(classifier(), tmp_path, [])
    label_path.write_text('{"0": ')
    assert f"{label_path} is not JSON" in refusal({**IRIS, "LABEL_FILEPATH": str(label_path)})


@pytest.mark.parametrize(
    ("command", "words"), [(BENTOML_SERVE, "the port is taken"), (ONE_PROCESS, "Address already in use")]
)
def test_with_a_port_in_use(tmp_path: Path, command: Sequence[str], words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = fail_to_start(tmp_path, IRIS, listener.getsockname()[1], command)
    assert words in line


def test_sends_no_usage_statistics(tmp_path: Path) -> None:
    # With this variable, BentoML logs the statistics that it sends; ONNX Runtime keeps its own in the home directory.
    environment = {"BENTOML_DO_NOT_TRACK": "", "__BENTOML_DEBUG_USAGE": "true", "HOME": str(tmp_path)}
    with serving(tmp_path, {**IRIS, **environment}, command=in_new_interpreter(BENTOML_SERVE)) as server:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=30)
    assert "Tracking" not in server.log.read_text()
    assert not list(tmp_path.rglob(".onnxruntime"))


@SIGNALS
def test_stops_on_a_signal(tmp_path: Path, asked: signal.Signals) -> None:
    with serving(tmp_path, IRIS) as server:
        workers = children(server.process.pid)
        server.process.send_signal(asked)
        assert server.process.wait(timeout=30) == 0
    assert "Starting production HTTP BentoServer" in events(server.log)[0]["message"]
    assert workers
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


@SIGNALS
def test_one_process_answers_the_same_and_stops_on_a_signal(
    tmp_path: Path, iris: Server, asked: signal.Signals
) -> None:
    requests = [
        *(("GET", path, None) for path in ("/", "/docs", "/docs.json", "/schema.json", "/none")),
        *(("GET", path, None) for path in ("/health", "/metadata", "/label", "/readyz", "/livez", "/healthz")),
        *(
            ("POST", path, {"data": rows})
            for path in ("/predict", "/predict/label")
            for rows in ([[5, 3, 1, 0]], [[1]])
        ),
    ]
    with serving(tmp_path, IRIS, command=in_new_interpreter(ONE_PROCESS)) as server:
        assert events(server.log)  # nothing but JSON
        assert children(server.process.pid) == []
        for method, path, body in requests:
            answer, known = (one.client.request(method, path, json=body) for one in (server, iris))
            assert (answer.status_code, answer.content) == (known.status_code, known.content)
        assert 'bentoml_service_request_total{endpoint="/predict"' in server.client.get("/metrics").text
        server.process.send_signal(asked)
        assert server.process.wait(timeout=30) == 0


def test_exits_when_its_worker_fails(tmp_path: Path) -> None:
    # Every Python process imports sitecustomize at its start; the condition holds for the worker only.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '_bentoml_impl.worker.service' in ' '.join(sys.orig_argv):\n    os._exit(15)\n"
    )
    with starting(tmp_path, {**IRIS, "PYTHONPATH": str(tmp_path)}) as (process, _):
        assert process.wait(timeout=30) == 15


@CONTAINERS
def test_exits_when_its_worker_is_killed(tmp_path: Path, container: dict[str, str]) -> None:
    with serving(tmp_path, {**IRIS, **container}) as server:
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGKILL)
        assert server.process.wait(timeout=10) == 1
        assert events(server.log)[-1]["error"] == "a worker was killed by signal 9"
        with pytest.raises(httpx.TransportError):
            server.client.get("/readyz")


def endless_environment(directory: Path, seconds: int) -> dict[str, str]:
    """Return the environment of a service whose model never answers its first row."""
    model_path, label_path = save(endless(), directory, ["a", "b", "c"])
    return {
        "MODEL_FILEPATH": str(model_path),
        "LABEL_FILEPATH": str(label_path),
        "START_TIMEOUT_SECONDS": str(seconds),
    }


@COMMANDS
def test_a_model_that_never_answers(tmp_path: Path, command: Sequence[str]) -> None:
    with starting(tmp_path, endless_environment(tmp_path, 2), command=command) as (process, log):
        assert process.wait(timeout=60) == 1
    waiting, failure = [line for line in events(log) if line["event"] != "message"]
    assert (waiting["event"], waiting["path"]) == ("waiting_for_model", str(tmp_path / "model.onnx"))
    assert (failure["event"], failure["code"]) == ("failed", "model-too-slow")
    assert "was not loaded, or made no first prediction, within 2 s" in failure["error"]


@COMMANDS
@SIGNALS
def test_a_signal_stops_the_start_at_once(tmp_path: Path, command: Sequence[str], asked: signal.Signals) -> None:
    with starting(tmp_path, endless_environment(tmp_path, 8), command=command) as (process, log):
        until(lambda: "waiting_for_model" in log.read_text(), 60)
        process.send_signal(asked)
        process.wait(timeout=10)
    assert "model-too-slow" not in log.read_text()
