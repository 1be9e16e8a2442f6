"""Common uses of BentoML work or are refused at start, compared with stock BentoML."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_ws import WebSocketSession, connect_ws

from tests.support.processes import (
    BENTOML_SERVE,
    IRIS,
    ONE_PROCESS,
    ROOT,
    SERVICES,
    Server,
    children,
    events,
    free_port,
    in_new_interpreter,
    serving,
    starting,
    until,
)
from tests.support.wire import answer, connect, request

SETOSA = [5.1, 3.5, 1.4, 0.2]
ROWS = {"data": [SETOSA, [6.3, 3.3, 6.0, 2.5]]}
ORIGIN = {"origin": "https://example.com"}
SERVICE = (ROOT / "service.py").read_text()


@contextmanager
def serving_options(home: Path, **options: Any) -> Iterator[Server]:
    """Serve with these options of BentoML's decorator."""
    environment = {**IRIS, **SERVICES, "OPTIONS": json.dumps(options)}
    prefix = f"/{options['path_prefix'].strip('/')}" if "path_prefix" in options else ""
    with serving(home, environment, "options:Options", ONE_PROCESS, prefix=prefix) as server:
        yield server


@contextmanager
def serving_edited(home: Path, old: str, new: str) -> Iterator[Server]:
    """Serve `service.py` with `old` replaced by `new`."""
    assert SERVICE.count(old) == 1
    (home / "edited.py").write_text(SERVICE.replace(old, new))
    environment = {**IRIS, "PYTHONPATH": f"{home}:{ROOT}"}
    with serving(home, environment, "edited:ModelLoadServer", ONE_PROCESS) as server:
        yield server


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with many additions, and a request timeout of one second."""
    environment = {**IRIS, **SERVICES, "REQUEST_TIMEOUT_SECONDS": "1"}
    with serving(tmp_path_factory.mktemp("extended"), environment, "extended:Extended") as server:
        yield server


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A stock BentoML service with the same additions."""
    environment = {**IRIS, **SERVICES, "STOCK": "true"}
    with serving(tmp_path_factory.mktemp("stock"), environment, "extended:Extended") as server:
        yield server


def test_an_edited_method_takes_effect(tmp_path: Path) -> None:
    with serving_edited(
        tmp_path, "return self.model.predict(data)", "return self.model.predict(data).round(1)"
    ) as server:
        assert server.client.post("/predict", json=ROWS).json() == {"prediction": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]}


def test_a_renamed_route_moves(tmp_path: Path) -> None:
    with serving_edited(tmp_path, 'route="/predict/label"', 'route="/name"') as server:
        assert server.client.post("/name", json=ROWS).json() == {"prediction": ["setosa", "virginica"]}
        assert server.client.post("/predict/label", json=ROWS).status_code == 404
        assert "/name" in server.client.get("/docs.json").json()["paths"]


def test_a_deleted_method_is_gone(tmp_path: Path) -> None:
    deleted = SERVICE[SERVICE.index('    @bentoml.api(route="/predict/label")') :]
    with serving_edited(tmp_path, deleted, "") as server:
        assert server.client.post("/predict/label", json=ROWS).status_code == 404
        assert "/predict/label" not in server.client.get("/docs.json").json()["paths"]
        assert server.predict(ROWS["data"])


def test_a_wrapped_method_takes_effect(tmp_path: Path) -> None:
    kept = '@bentoml.api(route="/predict/label")\n    @reversing'
    reversing = (
        "import functools\n\n\ndef reversing(method):\n    @functools.wraps(method)\n"
        "    def reverse(self, data):\n        return method(self, data)[::-1]\n    return reverse\n\n\n"
    )
    source = SERVICE.replace("app = FastAPI", f"{reversing}app = FastAPI")
    (tmp_path / "wrapped.py").write_text(source.replace('@bentoml.api(route="/predict/label")', kept))
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving(tmp_path, environment, "wrapped:ModelLoadServer", ONE_PROCESS) as server:
        assert server.predict(ROWS["data"], "/predict/label") == ["virginica", "setosa"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/own", {"text": "ab"}),
        ("POST", "/own", {"text": "ab", "times": 3}),
        ("POST", "/invalid", {}),
        ("POST", "/missing", {}),
        ("POST", "/refused", {}),
        ("POST", "/failing", {}),
        ("POST", "/own", {"text": 1}),
        ("GET", "/own", None),
        ("GET", "/extra/items/3", None),
        ("GET", "/extra/items/33", None),
        ("GET", "/extra/items/x", None),
        ("GET", "/extra/items/3/why", None),
        ("GET", "/extra/unavailable", None),
        ("GET", "/extra/closed", None),
        ("GET", "/extra/stream?seconds=0.1", None),
        ("GET", "/wsgi/a/path", None),
        ("GET", "/files/gated.py", None),
        ("GET", "/files/none.py", None),
        ("GET", "/plain", None),
        ("GET", "/nowhere", None),
        ("POST", "/slow", {"seconds": 7}),
        ("GET", "/livez", None),
        ("GET", "/readyz", None),
    ],
)
def test_answers_like_stock_bentoml(extended: Server, stock: Server, method: str, path: str, body: object) -> None:
    """Statuses and bodies are the same, except that errors use this server's format and keep the raised message."""
    with ThreadPoolExecutor(2) as clients:
        ours, theirs = clients.map(
            lambda server: server.client.request(method, path, **({} if body is None else {"json": body})),
            (extended, stock),
        )
    assert ours.status_code == theirs.status_code
    if ours.status_code < 400:
        assert ours.content == theirs.content
    else:
        detail = ours.json()["detail"]
        assert list(ours.json()) == ["detail"]
        words = {
            "/invalid": "these are my own words",
            "/missing": "there is no such flower",
            "/refused": "the service says no",
            "/extra/items/33": "there is no item 33",
            "/extra/items/3/why": "number: 3; why: sold out",
            "/nowhere": "There is no GET /nowhere; /docs.json lists all routes.",
            "/own": "text: Input should be a valid string"
            if method == "POST"
            else "GET /own is not allowed; expected POST.",
            "/slow": "The server did not begin to answer within 6 seconds.",
        }
        assert detail == words.get(path, detail)
        assert "secret" not in detail


def test_slow_routes_are_limited_by_the_services_timeout(extended: Server) -> None:
    """Slow routes may take longer than REQUEST_TIMEOUT_SECONDS, which limits predictions only."""
    assert extended.client.post("/slow", json={"seconds": 4}).text == "done"
    assert extended.client.get("/extra/stream", params={"seconds": 7}).text == "part " * 4


def test_a_disconnect_in_the_middle_is_logged_and_counted(extended: Server) -> None:
    left = extended.metric("bentoml_service_request_total", http_response_code="499", endpoint="/extra/stream")
    with connect(extended) as connection:
        connection.sendall(b"GET /extra/stream?seconds=2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    until(
        lambda: (
            extended.metric("bentoml_service_request_total", http_response_code="499", endpoint="/extra/stream")
            == left + 1
        )
    )
    assert any(line.get("status") == 499 and line["route"] == "/extra/stream" for line in events(extended.log))


@pytest.mark.parametrize("path", ["/extra/broken", "/extra/short"])
def test_an_answer_that_stops_in_the_middle_is_logged_and_counted(extended: Server, path: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        extended.client.get(path)
    until(
        lambda: extended.metric("bentoml_service_request_total", http_response_code="500", endpoint=path) == 1,
    )
    assert extended.metric("bentoml_service_request_total", http_response_code="200", endpoint=path) == 0
    lines = [line for line in events(extended.log) if line.get("route") == path]
    assert [line["event"] for line in lines] == ["request_failed", "request"]
    assert (lines[1]["status"], lines[1]["code"]) == (500, "server-failed")


def test_a_users_503_is_not_a_refusal(extended: Server) -> None:
    refused = extended.metric("model_server_refused_total")
    assert extended.client.get("/extra/unavailable").status_code == 503
    assert extended.metric("model_server_refused_total") == refused


def test_middleware_can_change_headers_answers_and_paths(tmp_path: Path) -> None:
    environment = {**IRIS, **SERVICES, "MAX_REQUESTS_IN_FLIGHT": "1", "MAX_BODY_BYTES": "1000000"}
    with serving(tmp_path, environment, "layered:Layered", ONE_PROCESS) as server:
        client = server.client
        label = client.post("/predict/label", json=ROWS)
        assert (label.status_code, label.json()) == (200, {"prediction": ["setosa", "virginica"]})
        assert label.headers["x-layer"] == "here"
        many = client.post("/predict", json={"data": [SETOSA] * 300}, headers={"accept-encoding": "gzip"})
        assert (many.status_code, many.headers["content-encoding"]) == (200, "gzip")
        for path, status in (("/nowhere", 404), ("/health", 200)):
            answered = client.get(path)
            assert (answered.status_code, answered.headers["x-layer"]) == (status, "here")
        bad = client.post("/predict", json={"data": [[1]]})
        assert (bad.status_code, bad.json()) == (400, {"detail": "data[0] has length 1; expected 4 numbers."})
        assert "x-model-server-error" not in bad.headers
        replaced = client.post("/predict", json=ROWS, headers={"x-replace": "late"})
        assert (replaced.status_code, replaced.json()) == (403, {"detail": "the quota is used up"})
        for _ in range(3):
            assert client.post("/v1/predict/label", json=ROWS).json() == {"prediction": ["setosa", "virginica"]}
        assert server.metric("bentoml_service_request_in_progress") == 0


def test_web_sockets_in_a_mounted_application(extended: Server) -> None:
    web_socket: WebSocketSession
    with connect_ws(f"{extended.url}/extra/echo") as web_socket:
        web_socket.send_text("hello")
        assert web_socket.receive_text() == "hello"


def test_a_users_counter_is_exposed(extended: Server) -> None:
    before = extended.metric("own_calls_total")
    extended.client.post("/own", json={"text": "x"})
    assert extended.metric("own_calls_total") == before + 1


def test_a_new_route_takes_one_method(extended: Server) -> None:
    post = extended.client.post
    assert post("/predict/top", json={**ROWS, "count": 2}).json() == {
        "prediction": [["setosa", "versicolor"], ["virginica", "setosa"]]
    }
    assert post("/predict/top", json={"data": [SETOSA]}).json() == {"prediction": ["setosa"]}
    assert post("/predict/later", json=ROWS).json() == {"prediction": ["setosa later", "virginica later"]}
    refused = post("/predict/top", json={**ROWS, "count": "many"})
    assert (refused.status_code, 'The field "count" is invalid' in refused.json()["detail"]) == (400, True)
    assert post("/predict/top", json={**ROWS, "cuont": 1}).status_code == 400
    assert post("/predict/later", json={"data": [[1]]}).json() == {
        "detail": "data[0] has length 1; expected 4 numbers."
    }


def test_the_openapi_document_has_all_paths(extended: Server) -> None:
    paths = extended.client.get("/docs.json").json()["paths"]
    assert {"/own", "/predict/top", "/extra/items/{number}", "/files/{path}", "/health", "/predict"} <= set(paths)
    schema = paths["/predict/top"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"data", "count"}
    assert paths["/own"]["post"]["responses"]["400"]["content"]["application/json"]["schema"]["title"] == "Error"


def test_middleware_and_cors_see_every_route(tmp_path: Path) -> None:
    with serving(tmp_path, {**IRIS, **SERVICES}, "guarded:Guarded", ONE_PROCESS) as server:
        for method, path in (("POST", "/predict"), ("POST", "/predict/label"), ("GET", "/health"), ("GET", "/livez")):
            refused = server.client.request(method, path, json=ROWS)
            assert (refused.status_code, refused.json()) == (401, {"detail": "a key is required"})
            answered = server.client.request(method, path, json=ROWS, headers={"x-key": "k", **ORIGIN})
            assert answered.status_code == 200
            assert answered.headers["access-control-allow-origin"] == ORIGIN["origin"]
        bad = server.client.post("/predict", json={"data": [[1]]}, headers={"x-key": "k"})
        assert bad.json() == {"detail": "data[0] has length 1; expected 4 numbers."}


def test_another_service_can_depend_on_this_one(tmp_path: Path) -> None:
    with serving(tmp_path, {**IRIS, **SERVICES}, "caller:Caller") as server:
        answered = server.client.post("/ask", json={"rows": ROWS["data"]}).json()
        assert answered["names"] == ["setosa", "virginica"]
        assert [round(probability, 2) for probability in answered["probabilities"][0]] == [0.97, 0.02, 0.01]
        pickled = server.client.post(
            "/ask", content=b"\x80\x05N.", headers={"content-type": "application/vnd.bentoml+pickle"}
        )
        assert pickled.status_code == 415  # pickles are accepted between processes only


@pytest.mark.parametrize("path_prefix", ["/api/v1", "api/v1/"])
def test_a_prefix_moves_the_declared_routes(tmp_path: Path, path_prefix: str) -> None:
    with serving_options(tmp_path, path_prefix=path_prefix) as server:
        assert server.predict([SETOSA], "/api/v1/predict/label") == "setosa"
        for path in ("/health", "/label", "/metadata", "/livez", "/metrics", "/docs.json", "/"):
            assert server.client.get(f"/api/v1{path}").status_code == 200, path
        assert server.client.post("/predict", json=ROWS).status_code == 404
        assert {"/api/v1/predict", "/api/v1/health"} <= set(server.client.get("/api/v1/docs.json").json()["paths"])


def test_max_concurrency_is_honoured(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    options = json.dumps({"traffic": {"max_concurrency": 1}})
    environment = {**IRIS, **SERVICES, "GATE": str(gate), "OPTIONS": options}
    with serving(tmp_path, environment, "gated:Gated", ONE_PROCESS) as server, connect(server) as waiting:
        waiting.sendall(request(b'{"data": [[9, 9, 9, 9], [1, 1, 1, 1]]}'))
        until(gate.with_name("begun").exists)
        refused = server.client.post("/predict", json=ROWS)
        assert (refused.status_code, refused.json()) == (429, {"detail": "Too many requests"})
        gate.unlink()
        assert answer(waiting).status == 200


@pytest.mark.parametrize(("enabled", "status"), [(True, 200), (False, 404)])
def test_metrics_can_be_switched(tmp_path: Path, status: int, *, enabled: bool) -> None:
    with serving_options(tmp_path, metrics={"enabled": enabled}, logging={"access": {"enabled": True}}) as server:
        assert server.predict([SETOSA], "/predict/label") == "setosa"
        assert server.client.get("/metrics").status_code == status
        until(lambda: any(line.get("logger") == "bentoml.access" for line in events(server.log)))


def refusal(home: Path, environment: dict[str, str], target: str, command: tuple[str, ...]) -> dict[str, Any]:
    """Return the last log line of a server that must refuse to start, without a traceback."""
    with starting(home, environment, target, command=command) as (process, log):
        assert process.wait(timeout=60) == 1
    assert "Traceback" not in log.read_text()
    line: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return line


@pytest.mark.parametrize("command", [ONE_PROCESS, BENTOML_SERVE], ids=["one process", "bentoml serve"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": {"duration": {"min": 1}}}, "the service's metrics have the settings duration"),
        ({"workers": 2}, "workers is 2; expected 1"),
    ],
)
def test_unsupported_options_are_refused_at_start(
    tmp_path: Path, command: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    line = refusal(tmp_path, {**IRIS, **SERVICES, "OPTIONS": json.dumps(options)}, "options:Options", command)
    assert (line["event"], line["code"], words in line["error"]) == ("failed", "service-option", True)


@pytest.mark.parametrize(
    "command",
    [ONE_PROCESS, pytest.param(BENTOML_SERVE, marks=pytest.mark.nightly)],
    ids=["one process", "bentoml serve"],
)
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("data: Rows, ctx: bentoml.Context", "predict takes rows, so it cannot be a stream or a task, nor take the"),
        ("data: Rows, more: Rows", "predict has several Rows parameters, data and more; expected one"),
        ("data: Rows | None = None", "predict declares data as Rows or another type; expected Rows"),
    ],
)
def test_unsupported_methods_are_refused_at_start(
    tmp_path: Path, command: tuple[str, ...], parameters: str, words: str
) -> None:
    source = SERVICE.replace("def predict(self, data: Rows)", f"def predict(self, {parameters})")
    (tmp_path / "edited.py").write_text(source)
    line = refusal(tmp_path, {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, "edited:ModelLoadServer", command)
    assert (line["event"], line["code"], words in line["error"]) == ("failed", "service-method", True)


def test_a_stock_service_is_refused_at_start(tmp_path: Path) -> None:
    line = refusal(tmp_path, {**IRIS, **SERVICES, "STOCK": "true"}, "extended:Extended", ONE_PROCESS)
    assert (line["code"], "extended:Extended is a service of another class" in line["error"]) == ("service-class", True)


def test_options_are_not_abbreviated(tmp_path: Path) -> None:
    with starting(tmp_path, IRIS, command=(*ONE_PROCESS, "--timeout", "20")) as (process, log):
        assert process.wait(timeout=60) == 2
    assert "--timeout" in log.read_text()


def test_metrics_take_precedence_over_the_users_applications(tmp_path: Path) -> None:
    imported = "\nfrom starlette.staticfiles import StaticFiles\n"
    mounted = f"{imported}\nModelLoadServer.mount_asgi_app(StaticFiles(directory='docs'))"
    (tmp_path / "edited.py").write_text(SERVICE + mounted)
    environment = {**IRIS, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving(tmp_path, environment, "edited:ModelLoadServer", ONE_PROCESS) as server:
        assert server.client.get("/choosing.md").status_code == 200
        assert server.metric("bentoml_service_request_total", endpoint="/readyz") > 0
        assert server.predict([SETOSA], "/predict/label") == "setosa"


@pytest.mark.parametrize("command", [ONE_PROCESS, BENTOML_SERVE], ids=["one process", "bentoml serve"])
def test_tasks_and_deployment_hooks(tmp_path: Path, command: tuple[str, ...]) -> None:
    prepared = tmp_path / "prepared"
    with serving(tmp_path, {**IRIS, **SERVICES, "PREPARED": str(prepared)}, "tasks:Tasks", command) as server:
        assert prepared.exists()
        task = server.client.post("/add/submit", json={"a": 1, "b": 2}).json()["task_id"]
        until(
            lambda: server.client.get("/add/status", params={"task_id": task}).json()["status"] == "completed",
        )
        assert server.client.get("/add/get", params={"task_id": task}).text == "3"


@pytest.mark.nightly
def test_reloading_survives_a_syntax_error(tmp_path: Path) -> None:
    for name in ("model_server", "volume"):
        (tmp_path / name).symlink_to(ROOT / name)
    source = tmp_path / "service.py"
    shutil.copy(ROOT / "service.py", source)
    port = free_port()
    home = tmp_path / "home"
    home.mkdir()
    with (
        starting(
            home, {**IRIS, "PYTHONPATH": ""}, ".", port, (*in_new_interpreter(BENTOML_SERVE), "--reload"), tmp_path
        ) as (process, log),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):

        def says(prediction: object) -> bool:
            try:
                return bool(client.post("/predict/label", json={"data": [SETOSA]}).json() == {"prediction": prediction})
            except (httpx.TransportError, ValueError):
                return False

        until(lambda: says("setosa"), 60)
        source.write_text("def")
        until(lambda: "invalid syntax" in log.read_text(), 60)
        time.sleep(1)
        assert process.poll() is None
        source.write_text(SERVICE.replace("self.model.predict_label(data)", '["a new one" for _ in data]'))
        until(lambda: says("a new one"), 60)


def test_a_closed_terminal_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, IRIS) as server:
        processes = [server.process.pid, *children(server.process.pid)]
        os.killpg(server.process.pid, signal.SIGHUP)
        server.process.wait(timeout=30)
        until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes[1:]))


def test_tls_with_a_malformed_request(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    options = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key))
    home = tmp_path / "home"
    home.mkdir()
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    with starting(home, IRIS, port=port, command=(*BENTOML_SERVE, *options)) as (_, log):
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context) as client:

            def is_ready() -> bool:
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            until(is_ready, 60)
            assert client.post("/predict/label", json={"data": [SETOSA]}).json() == {"prediction": "setosa"}
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30)) as secure:
            secure.sendall(b"not HTTP\r\n\r\n")
            assert secure.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in log.read_text()
