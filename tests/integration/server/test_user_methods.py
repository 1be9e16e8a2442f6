"""Methods that take rows and do more than call the model."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from model_server.settings import processors
from tests.support.processes import IRIS, ONE_PROCESS, ROOT, SERVICES, Server, events, serving, until

SETOSA = [5.1, 3.5, 1.4, 0.2]
ROWS = {"data": [SETOSA, [6.3, 3.3, 6.0, 2.5]]}
NAMES = ["setosa", "virginica"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {**IRIS, **SERVICES, "REQUEST_TIMEOUT_SECONDS": "2"}
    with serving(tmp_path_factory.mktemp("methods"), environment, "methods:Methods", ONE_PROCESS) as server:
        yield server


@contextmanager
def probing(server: Server) -> Iterator[list[float]]:
    """Send probes one after the other, and yield the list of their durations in seconds."""
    seconds: list[float] = []
    is_over = threading.Event()

    def probe() -> None:
        while not is_over.is_set():
            began = time.perf_counter()
            assert server.client.get("/livez").status_code == 200
            seconds.append(time.perf_counter() - began)
            time.sleep(0.01)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield seconds
    finally:
        is_over.set()
        thread.join()


def test_a_slow_method_blocks_nothing_else_after_its_first_call(server: Server) -> None:
    def predict() -> None:
        answered = server.client.post("/slow", json={**ROWS, "seconds": 1})
        assert answered.json() == {"prediction": ["late", "late"]}

    predict()
    with probing(server) as seconds:
        predict()
        predict()
    assert max(seconds) < 0.8


def test_a_slow_method_next_to_an_async_one_does_not_block_the_event_loop(tmp_path: Path) -> None:
    source = (ROOT / "service.py").read_text().replace("def predict_label", "async def predict_label")
    slow = "import time\n\n        time.sleep(1)\n        return self.model.predict(data)"
    (tmp_path / "edited.py").write_text(source.replace("return self.model.predict(data)", slow))
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    tensor = {"name": "data", "datatype": "FP32", "shape": [1, 4], "data": SETOSA}
    with serving(tmp_path, environment, "edited:ModelLoadServer", ONE_PROCESS) as server, probing(server) as seconds:
        answered = server.client.post("/v2/models/iris_svc/infer", json={"inputs": [tensor]}).json()
    assert [output["name"] for output in answered["outputs"]] == ["probabilities", "label"]
    assert max(seconds) < 0.8


def test_overdue_methods_next_to_an_async_one_occupy_the_threads_of_inferences(tmp_path: Path) -> None:
    source = (ROOT / "tests/integration/server/services/gated.py").read_text()
    source = source.replace("import Array, Rows", "import Array\nfrom model_server.api import Rows")
    method = "\n    @bentoml.api(route='/predict/label')\n    async def predict_label(self, data: Rows) -> list[str]:\n"
    (tmp_path / "edited.py").write_text(f"{source}{method}        return ['x'] * len(data)\n")
    (tmp_path / "gate").touch()
    environment = {
        **IRIS,
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "GATE": str(tmp_path / "gate"),
        "REQUEST_TIMEOUT_SECONDS": "1",
    }
    tensor = {"name": "data", "datatype": "FP32", "shape": [1, 4], "data": [9, 9, 9, 9]}
    with serving(tmp_path, environment, "edited:Gated", ONE_PROCESS) as server:
        with ThreadPoolExecutor() as clients:
            asked = [
                clients.submit(server.client.post, "/v2/models/iris_svc/infer", json={"inputs": [tensor]})
                for _ in range(processors())
            ]
        assert {one.result().status_code for one in asked} == {504}
        until(lambda: server.client.get("/readyz").status_code == 503)
        (tmp_path / "gate").unlink()
        until(lambda: server.client.get("/readyz").status_code == 200)


def test_async_methods_are_measured(server: Server) -> None:
    names = ("model_server_rows_total", "model_server_inference_seconds_count")
    before = [server.metric(name) for name in names]
    assert server.client.post("/later", json=ROWS).status_code == 200
    assert [server.metric(name) for name in names] == [before[0] + 2, before[1] + 1]


def test_rows_can_be_a_keyword_only_parameter(server: Server) -> None:
    assert server.client.post("/keyword", json=ROWS).json() == {"prediction": NAMES}
    suffixed = server.client.post("/keyword", json={**ROWS, "suffix": "!"})
    assert suffixed.json() == {"prediction": ["setosa!", "virginica!"]}


def test_answers_can_be_pydantic_models(server: Server) -> None:
    assert server.client.post("/flowers", json={"data": [[1, 2, 3, 4]]}).json() == {
        "prediction": {"name": "virginica", "petals": [3.0, 4.0]}
    }


def test_an_asynchronous_method_has_a_timeout(server: Server) -> None:
    answered = server.client.post("/later", json={**ROWS, "seconds": 20})
    assert (answered.status_code, answered.json()) == (504, {"detail": "The model did not answer within 2 seconds."})


@pytest.mark.parametrize("route", ["/late", "/late/async"])
def test_a_timeout_error_raised_by_a_method_is_a_server_error(server: Server, route: str) -> None:
    answered = server.client.post(route, json=ROWS)
    assert (answered.status_code, answered.json()) == (
        500,
        {"detail": "The server failed to answer; its log says why."},
    )
    lines = [line for line in events(server.log) if line.get("route") == route]
    assert "secret of the feature store" in next(line["trace"] for line in lines if line["event"] == "request_failed")


@pytest.mark.parametrize(
    ("status", "answered", "detail"),
    [
        (410, 410, "flower: sold out"),
        (503, 503, "The server failed to answer; its log says why."),
        (302, 500, "The server failed to answer; its log says why."),
        (477, 500, "The server failed to answer; its log says why."),
    ],
)
def test_an_http_exception_keeps_its_status(server: Server, status: int, answered: int, detail: str) -> None:
    response = server.client.post("/gone", json={**ROWS, "status": status})
    assert (response.status_code, response.json()) == (answered, {"detail": detail})
    assert response.headers.get("x-why") == ("season" if answered == 410 else None)


def test_errors_of_methods_below_500_keep_their_status_and_message(server: Server) -> None:
    refused = server.metric("model_server_refused_total")
    missing = server.client.post("/missing", json=ROWS)
    assert (missing.status_code, missing.json()) == (404, {"detail": "there is no such flower"})
    unavailable = server.client.post("/unavailable", json=ROWS)
    assert (unavailable.status_code, unavailable.json()) == (
        503,
        {"detail": "The server failed to answer; its log says why."},
    )
    assert server.metric("model_server_refused_total") == refused + 1  # the 404, like that of any route
    assert any("secret of the feature store" in line.get("trace", "") for line in events(server.log))
