"""The Open Inference Protocol over HTTP."""

import json
import struct
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.support.processes import IRIS, ONE_PROCESS, SERVICES, Server, serving
from tests.support.wire import answers, connect, request

MIB = 1 << 20
VERSION = "28e9ee65868e"
MODEL = "/v2/models/iris_svc"
INFER = f"{MODEL}/infer"
SETOSA = [5.1, 3.5, 1.4, 0.2]
TENSOR = {"name": "data", "datatype": "FP32", "shape": [1, 4], "data": SETOSA}


def cpu_seconds(server: Server) -> float:
    """Return the processor time of the server's processes so far."""
    root = psutil.Process(server.process.pid)
    return sum(sum(process.cpu_times()[:2]) for process in (root, *root.children(recursive=True)))


def ask(server: Server, path: str = INFER, **document: object) -> httpx.Response:
    return server.client.post(path, json={"inputs": [TENSOR], **document})


def binary(data: bytes, rows: int, **document: object) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request with binary rows."""
    parameters = {"binary_data_size": len(data)}
    tensor = {"name": "data", "datatype": "FP32", "shape": [rows, 4], "parameters": parameters}
    header = json.dumps({"inputs": [tensor], **document}).encode()
    return header + data, {"inference-header-content-length": str(len(header))}


GETS = {
    "/v2/health/live": {"live": True, "ready": True},
    "/v2/health/ready": {"live": True, "ready": True},
    "/v2/models": {"models": ["iris_svc"]},
    f"{MODEL}/ready": {"name": "iris_svc", "ready": True},
    f"{MODEL}/versions/{VERSION}/ready": {"name": "iris_svc", "ready": True},
}


@pytest.mark.parametrize(("path", "document"), GETS.items())
def test_health(iris: Server, path: str, document: object) -> None:
    response = iris.client.get(path)
    assert (response.status_code, response.json()) == (200, document)


def test_metadata(iris: Server) -> None:
    server = iris.client.get("/v2").json()
    assert list(server) == ["name", "version", "extensions"]
    metadata = iris.client.get(MODEL).json()
    assert (metadata["name"], metadata["versions"]) == ("iris_svc", [VERSION])
    assert iris.client.get(f"{MODEL}/versions/{VERSION}").json() == metadata


@pytest.mark.parametrize(
    "path", [INFER, f"{MODEL}/versions/{VERSION}/infer", f"{INFER}?x=1", "/v2/models/iris%5Fsvc/infer"]
)
@pytest.mark.parametrize("content_type", [None, "application/json", "application/octet-stream"])
def test_infer(iris: Server, path: str, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = iris.client.post(path, content=json.dumps({"inputs": [TENSOR]}), headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["id"] == response.headers["x-request-id"]
    assert answer["outputs"][0]["data"] == iris.predict([SETOSA])
    assert answer["outputs"][1]["data"] == ["setosa"]


@pytest.mark.parametrize("rows", [1, 1000, 5000])
def test_binary(iris: Server, rows: int) -> None:
    data = np.linspace(0, 8, rows * 4, dtype="<f4").reshape(rows, 4)
    body, headers = binary(data.tobytes(), rows, parameters={"binary_data_output": True})
    response = iris.client.post(INFER, content=body, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    size = int(response.headers["inference-header-content-length"])
    probabilities, labels = json.loads(response.content[:size])["outputs"]
    end = size + probabilities["parameters"]["binary_data_size"]
    found = np.frombuffer(response.content[size:end], "<f4").reshape(probabilities["shape"])
    expected = iris.predict(data.tolist())
    assert found.tolist() == (expected if rows > 1 else [expected])
    assert len(response.content) == end + labels["parameters"]["binary_data_size"]
    assert response.content[end : end + 4] == struct.pack("<I", len(iris.predict([data[0].tolist()], "/predict/label")))


ERRORS = {
    ("GET", INFER): (405, f"GET {INFER} is not allowed; expected POST."),
    ("POST", MODEL): (405, f"POST {MODEL} is not allowed; expected "),
    ("GET", "/v2/nothing"): (404, "There is no GET /v2/nothing; /docs.json lists all routes."),
    ("POST", "/v2/models/iris/infer"): (404, 'There is no model "iris"; expected "iris_svc".'),
    ("GET", f"{MODEL}/versions/1"): (404, f'There is no version "1"; expected "{VERSION}".'),
    ("POST", f"{MODEL}/versions/1/infer"): (404, f'There is no version "1"; expected "{VERSION}".'),
    ("POST", "/v2/models/../infer"): (404, 'There is no model ".."; expected "iris_svc".'),
    ("POST", "/v2/models/%2e%2e/infer"): (404, 'There is no model ".."; expected "iris_svc".'),
    ("POST", "/v2/models/iris_svc%00/infer"): (404, 'There is no model "iris_svc%00"; expected "iris_svc".'),
    ("POST", "/v2/models/%2fetc%2fpasswd/infer"): (404, "There is no POST /v2/models//etc/passwd/infer; /docs.json"),
    ("GET", "/v2/models/..%2f..%2fetc"): (404, "There is no GET /v2/models/../../etc; /docs.json lists all routes."),
    ("POST", "/v2/repository/index"): (404, "There is no POST /v2/repository/index; /docs.json lists all routes."),
}


@pytest.mark.parametrize(("method", "path"), ERRORS)
def test_errors(iris: Server, method: str, path: str) -> None:
    with connect(iris) as connection:
        connection.sendall(request(b"{}", path=path.encode()).replace(b"POST", method.encode(), 1))
        answer = next(answers(connection))
    status, sentence = ERRORS[method, path]
    document = json.loads(answer.body)
    assert (answer.status, list(document)) == (status, ["error"])
    assert document["error"].startswith(sentence)


HEADERS = {
    "text": (
        {"content-type": "text/plain"},
        415,
        "The Content-Type is 'text/plain'; expected application/json in UTF-8 or",
    ),
    "gzip": ({"content-encoding": "gzip"}, 415, "The Content-Encoding is 'gzip'; expected an uncompressed body."),
    "a length beyond": (
        {"inference-header-content-length": "9999"},
        400,
        'The Inference-Header-Content-Length is "9999"',
    ),
}


@pytest.mark.parametrize(("headers", "status", "sentence"), HEADERS.values(), ids=HEADERS)
def test_headers(iris: Server, headers: dict[str, str], status: int, sentence: str) -> None:
    response = iris.client.post(INFER, content=json.dumps({"inputs": [TENSOR]}), headers=headers)
    assert response.status_code == status
    assert response.json()["error"].startswith(sentence)


def test_a_body_that_is_too_large(iris: Server) -> None:
    response = iris.client.post(INFER, content=bytes(9 << 20))
    assert (response.status_code, list(response.json())) == (413, ["error"])


def test_tiny_chunks_take_little_time(iris: Server) -> None:
    """The time for a body in chunks of one byte is in proportion to its bytes."""
    with connect(iris) as connection:
        connection.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER.encode())
        before = cpu_seconds(iris)
        connection.sendall(b"1\r\n0\r\n" * MIB + b"0\r\n\r\n")
        assert next(answers(connection)).status == 400
    assert cpu_seconds(iris) - before < 5


def test_metrics_have_the_name_as_a_template(iris: Server) -> None:
    def count(endpoint: str) -> float:
        return iris.metric("bentoml_service_request_total", endpoint=endpoint)

    before = [count("/v2/models/{model_name}/infer"), count("other")]
    ask(iris)
    ask(iris, "/v2/models/iris%5Fsvc/infer")
    ask(iris, "/v2/models/iris/infer")
    assert [count("/v2/models/{model_name}/infer"), count("other")] == [before[0] + 2, before[1] + 1]
    assert "iris_svc" not in {
        line for line in iris.client.get("/metrics").text.splitlines() if line.startswith("bentoml_")
    }


def test_edited_methods_are_asked_through_middleware_under_a_prefix(tmp_path: Path) -> None:
    environment = {**IRIS, **SERVICES, "MODEL_NAME": "flowers"}
    with serving(tmp_path, environment, "protocols:Protocols", ONE_PROCESS, prefix="/ml") as server:
        response = ask(server, "/ml/v2/models/flowers/infer")
        assert response.status_code == 200, response.text
        assert response.headers["x-seen"] == "/ml/v2/models/flowers/infer"
        outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
        assert outputs == {"probabilities": [1, 2, 3], "label": ["SETOSA"]}
        assert ask(server, "/ml/v2/models/iris_svc/infer").json() == {
            "error": 'There is no model "iris_svc"; expected "flowers".'
        }
        body, headers = binary(struct.pack("<4f", *SETOSA), 1, parameters={"binary_data_output": True})
        answered = server.client.post("/ml/v2/models/flowers/infer", content=body, headers=headers)
        assert answered.headers["content-type"] == "application/octet-stream"
        unready = server.client.get("/ml/v2/health/ready")
        assert (unready.status_code, unready.json()) == (200, {"live": True, "ready": True})
