"""Requests in the server's log and metrics."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import (
    IRIS,
    ONE_PROCESS,
    ROOT,
    Server,
    events,
    free_port,
    in_new_interpreter,
    interpreter,
    service_environment,
    serving,
    until,
)
from tests.support.wire import ask, connect, request
from volume.receipt import sha256_of

SECRET = "not-for-other-eyes"  # noqa: S105 (it opens nothing)
RATE = 0.25
REASONS = ("busy", "invalid", "media_type", "method", "not_found", "timeout", "too_large", "unavailable")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {**IRIS, "ACCESS_LOG_SAMPLE_RATE": str(RATE), "REQUEST_TIMEOUT_SECONDS": "3"}
    with serving(tmp_path_factory.mktemp("observed"), environment, command=ONE_PROCESS) as server:
        yield server


def logged(server: Server, request_id: str) -> dict[str, Any]:
    """Return the log line of a request, which follows its answer."""
    found: list[dict[str, Any]] = []

    def is_logged() -> bool:
        found[:] = [line for line in events(server.log) if line.get("request_id") == request_id]
        return bool(found)

    until(is_logged)
    [line] = found
    return line


def values(server: Server, name: str) -> dict[str, float]:
    """Return the values of a metric by labels."""
    lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return {line.partition("{")[2].rpartition("}")[0]: float(line.rpartition(" ")[2]) for line in lines}


def value(server: Server, name: str) -> float:
    """Return the value of a metric without labels."""
    lines = server.client.get("/metrics").text.splitlines()
    [found] = [line for line in lines if line.startswith(f"{name} ")]
    return float(found.split()[1])


def refusals(server: Server) -> dict[str, float]:
    counts = values(server, "model_server_refused_total")
    return {reason: counts[f'reason="{reason}"'] for reason in REASONS}


HEAD = f"X-Secret: {SECRET}\r\nCookie: a={SECRET}\r\n".encode()
PATH = f"/predict?key={SECRET}".encode()
BODY = json.dumps({"data": [[5.1, 3.5, 1.4, SECRET]]}).encode()


@pytest.mark.parametrize(
    ("sent", "status", "route", "reason"),
    [
        (request(BODY, HEAD, PATH), 400, "/predict", "invalid"),
        (request(head=HEAD + f"Content-Type: {SECRET}\r\n".encode(), path=PATH), 415, "/predict", "media_type"),
        (request(head=HEAD, path=PATH, length=1 << 30), 413, "/predict", "too_large"),
        (request(BODY, HEAD, f"/{SECRET}".encode()), 404, "other", "not_found"),
        (request(BODY, HEAD, f"/label?{SECRET}".encode()), 405, "/label", "method"),
        (request(head=HEAD, path=PATH, length=1000), 408, "/predict", "timeout"),
        (request(head=HEAD + b"X: " + b"x" * 100_000 + b"\r\n"), 431, "other", "too_large"),
        (f"{SECRET}\r\n\r\n".encode(), 400, "other", "invalid"),
        (request(BODY[:10], HEAD + f"Transfer-Encoding: {SECRET}\r\n".encode()), 400, "other", "invalid"),
    ],
)
def test_an_error_is_logged_and_counted_without_what_was_sent(
    server: Server, sent: bytes, status: int, route: str, reason: str
) -> None:
    before = refusals(server)
    answer = ask(server, sent)
    assert answer.status == status
    line = logged(server, answer.headers["x-request-id"])
    assert (line["event"], line["level"], line["status"]) == ("request", "warning", status)
    assert (line["route"], line["reason"]) == (route, reason)
    assert 0 <= line["seconds"] < 60
    assert len(line["model"]) == 64
    assert refusals(server) == {**before, reason: before[reason] + 1}
    assert SECRET not in server.log.read_text()


def test_websockets_and_disconnects_are_logged(server: Server) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "x-request-id": "socket-1",
    }
    assert server.client.get(f"/{SECRET}", headers=upgrade).headers["x-request-id"] == "socket-1"
    assert logged(server, "socket-1")["status"] == 404
    with connect(server) as connection:
        connection.sendall(request(BODY, b"X-Request-ID: gone-1\r\n", length=1000))
    line = logged(server, "gone-1")
    assert (line["status"], line["level"], line["route"]) == (499, "warning", "/predict")
    assert SECRET not in server.log.read_text()


@pytest.mark.parametrize(
    ("head", "request_id"),
    [
        (b"X-Request-ID: order-7/b\r\n", "order-7/b"),
        (b"traceparent: 00-" + b"a1" * 16 + b"-" + b"b2" * 8 + b"-01\r\n", "a1" * 16),
    ],
)
def test_the_request_id_is_returned_and_logged(server: Server, head: bytes, request_id: str) -> None:
    answer = ask(server, request(b"{", head))
    assert (answer.status, answer.headers["x-request-id"]) == (400, request_id)
    assert logged(server, request_id)["status"] == 400


def test_successes_are_sampled(server: Server) -> None:
    for _ in range(9):
        assert ask(server, request()).status == 200
    counts = values(server, "bentoml_service_request_total")
    successes = 1 + sum(
        count for labels, count in counts.items() if int(labels.partition('response_code="')[2][:3]) < 400
    )  # and the request for the metrics

    def sampled() -> list[dict[str, Any]]:
        return [line for line in events(server.log) if line["event"] == "request" and line["level"] == "info"]

    until(lambda: len(sampled()) >= int(successes * RATE))
    assert len(sampled()) == int(successes * RATE)
    assert {"request_id", "method", "route", "status", "seconds"} < set(sampled()[0])


def test_rows_and_inferences_are_counted_in_threads_too(server: Server) -> None:
    def counted() -> tuple[float, float, float]:
        names = (
            "model_server_rows_total",
            "model_server_inference_seconds_count",
            "model_server_inference_seconds_sum",
        )
        rows, count, seconds = (value(server, name) for name in names)
        return rows, count, seconds

    before = counted()
    for rows in (1, 3, 5000):  # the last in a thread
        server.predict([[5.1, 3.5, 1.4, 0.2]] * rows)
    assert server.client.post("/predict", json={"data": [[1]]}).status_code == 400
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (5004, 3)
    assert after[2] > before[2]


def test_each_predicted_row_is_counted_once(server: Server) -> None:
    def counted() -> list[float]:
        classes = values(server, "model_server_predictions_total")
        [probabilities] = values(server, "model_server_prediction_probability_count").values()
        digest = sha256_of(Path(IRIS["MODEL_FILEPATH"]))
        found = [classes[f'class="{name}",sha256="{digest}"'] for name in ("setosa", "versicolor", "virginica")]
        return [*found, probabilities, value(server, "model_server_rows_total")]

    setosa, virginica = [5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]
    before = counted()
    assert server.predict([setosa], "/predict/label") == "setosa"
    server.predict([setosa, virginica])
    server.predict([virginica] * 5000)  # in a thread
    tensor = {"name": "data", "datatype": "FP32", "shape": [2, 4], "data": [setosa, virginica]}
    for names in (["label"], ["label", "probabilities"]):
        document = {"inputs": [tensor], "outputs": [{"name": name} for name in names]}
        assert server.client.post("/v2/models/iris_svc/infer", json=document).status_code == 200
    assert server.client.post("/predict", json={"data": [[1]]}).status_code == 400
    differences = [after - earlier for after, earlier in zip(counted(), before, strict=True)]
    assert differences == [4, 0, 5003, 5007, 5007]


def test_metrics_of_an_idle_server(server: Server) -> None:
    [(labels, info)] = values(server, "model_info").items()
    assert (info, 'source="file:///' in labels) == (1, True)
    assert value(server, "model_server_max_requests_in_flight") > 0
    assert list(values(server, "bentoml_service_request_in_progress").values()) == [0]
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"):
        assert value(server, name) > 0
    classes = {
        labels.partition('status_class="')[2][:3]
        for labels in values(server, "bentoml_service_request_duration_seconds_count")
    }
    assert classes <= {"2xx", "3xx", "4xx", "5xx"}
    assert "model_load_seconds" not in server.client.get("/metrics").text  # no loader has loaded this model


def test_a_terminal_gets_text(tmp_path: Path) -> None:
    port = free_port()
    controller, terminal = pty.openpty()
    with closing(os.fdopen(controller, "rb")) as shown:
        process = subprocess.Popen(
            [interpreter("service"), *in_new_interpreter(ONE_PROCESS), "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env=service_environment(tmp_path, IRIS),
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        try:
            serving_line, started = (shown.readline().decode() for _ in range(2))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                until(lambda: is_up(client))
                client.post("/predict", content=b"{", headers={"x-request-id": "seen-on-a-terminal"})
            refused = shown.readline().decode()
        finally:
            process.terminate()
            process.wait(timeout=30)
    assert " INFO Service model_load_server initialized" in started
    assert f" INFO serving sha256={sha256_of(Path(IRIS['MODEL_FILEPATH']))} source=file:///" in serving_line
    assert " WARNING request request_id=seen-on-a-terminal method=POST route=/predict status=400" in refused


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_events_below_the_log_level_are_omitted(tmp_path: Path) -> None:
    environment = {**IRIS, "LOG_LEVEL": "error", "ACCESS_LOG_SAMPLE_RATE": "1", "PREDICTION_METRICS": "false"}
    with serving(tmp_path, environment, command=ONE_PROCESS) as server:
        assert server.client.post("/predict", content=b"{").status_code == 400
        assert "model_server_prediction" not in server.client.get("/metrics").text
    assert events(server.log) == []
