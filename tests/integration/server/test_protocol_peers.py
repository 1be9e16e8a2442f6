"""The same requests of the Open Inference Protocol to this server, MLServer and KServe, and the client of KServe."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.environments import ROOT, environment_of
from benchmarks.server.process import running
from benchmarks.server.servers import servers
from tests.support.processes import IRIS, Server

pytestmark = pytest.mark.nightly

CLIENT = Path(__file__).parent / "clients" / "kserve_client.py"
PEERS = ("MLServer", "KServe, /v2")
SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]
TENSOR = {"name": "data", "datatype": "FP32", "shape": [1, 4], "data": SETOSA}

Request = tuple[str, str, bytes]


def infer(**changes: Any) -> Request:
    """Return a request for predictions with changed fields; None removes a field."""
    document = {"id": "1", "inputs": [TENSOR], **changes}
    return "POST", "/infer", json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def tensor(**changes: Any) -> Request:
    """Return a request for predictions whose tensor has changed fields."""
    return infer(inputs=[{name: value for name, value in {**TENSOR, **changes}.items() if value is not None}])


# Reasons for different statuses.
FASTAPI = "FastAPI answers a body of another form with 422; the specification of this server says 400"
CODE = "the others pass the tensor to the model's code, whose error is a 500"
IGNORED = "the others ignore it, and answer another question than the client has asked"
VERSIONS = "KServe's server has no versions"
# A request, the statuses of this server, MLServer and KServe's server, and the reason if they differ. The paths of most
# requests are below that of the model.
REQUESTS: dict[str, tuple[Request, tuple[int, int, int], str]] = {
    "live": (("GET", "/v2/health/live", b""), (200, 200, 200), ""),
    "ready": (("GET", "/v2/health/ready", b""), (200, 200, 200), ""),
    "the server's metadata": (("GET", "/v2", b""), (200, 200, 200), ""),
    "metadata": (("GET", "", b""), (200, 200, 200), ""),
    "the model is ready": (("GET", "/ready", b""), (200, 200, 200), ""),
    "a row": (infer(), (200, 200, 200), ""),
    "two rows": (tensor(shape=[2, 4], data=[*SETOSA, *VIRGINICA]), (200, 200, 200), ""),
    "nested data": (tensor(shape=[2, 4], data=[SETOSA, VIRGINICA]), (200, 200, 200), ""),
    "no id": (infer(id=None), (200, 200, 200), ""),
    "the content type np": (infer(parameters={"content_type": "np"}), (200, 200, 200), ""),
    "another model": (("GET", "/v2/models/other", b""), (404, 404, 404), ""),
    "predictions of another model": (("POST", "/v2/models/other/infer", infer()[2]), (404, 404, 404), ""),
    "an unknown path": (("GET", "/v2/nothing", b""), (404, 404, 404), ""),
    "a wrong method": (("GET", "/infer", b""), (405, 405, 405), ""),
    "another version": (("GET", "/versions/9", b""), (404, 404, 501), VERSIONS),
    "no JSON": (("POST", "/infer", b"{"), (400, 422, 422), FASTAPI),
    "an array": (("POST", "/infer", b"[]"), (400, 422, 422), FASTAPI),
    "no inputs": (infer(inputs=None), (400, 422, 422), FASTAPI),
    "no shape": (tensor(shape=None), (400, 422, 422), FASTAPI),
    "no data": (tensor(data=None), (400, 422, 422), FASTAPI),
    "a number as an id": (infer(id=5), (400, 422, 422), FASTAPI),
    "an unknown datatype": (tensor(datatype="FP99"), (400, 422, 400), FASTAPI),
    "an empty list of inputs": (infer(inputs=[]), (400, 500, 500), CODE),
    "another datatype": (tensor(datatype="FP64"), (400, 500, 500), CODE),
    "whole numbers": (tensor(datatype="INT64", data=[5, 3, 1, 0]), (400, 500, 500), CODE),
    "a shape of other data": (tensor(shape=[2, 4]), (400, 500, 500), CODE),
    "a wrong width": (tensor(shape=[1, 5], data=[*SETOSA, 1]), (400, 500, 500), CODE),
    "a string as a number": (tensor(data=[5.1, 3.5, 1.4, "x"]), (400, 500, 500), CODE),
    "a number too large": (tensor(data=[5.1, 3.5, 1.4, 1e39]), (400, 200, 200), IGNORED),
    "another name": (tensor(name="x"), (400, 200, 200), IGNORED),
    "a negative length": (tensor(shape=[-1, 4]), (400, 200, 200), IGNORED),
    "an input twice": (infer(inputs=[TENSOR, TENSOR]), (400, 200, 200), IGNORED),
    "an unknown output": (infer(outputs=[{"name": "logits"}]), (400, 200, 200), IGNORED),
    "an unknown field": (infer(inptus=1), (400, 200, 200), IGNORED),
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """URLs of MLServer and KServe's server with the iris model, as in the benchmark."""
    found = {server.name: server for server in servers()}
    model, labels = Path(IRIS["MODEL_FILEPATH"]), Path(IRIS["LABEL_FILEPATH"])
    with contextlib.ExitStack() as stack:
        yield [
            f"http://127.0.0.1:{stack.enter_context(program).port}"
            for name in PEERS
            for program in [
                running(found[name], model, labels, tmp_path_factory.mktemp("peer"), found[name].body([SETOSA]))
            ]
        ]


def ask(url: str, model: str, request: Request) -> httpx.Response:
    method, path, body = request
    path = path if path.startswith("/v2") else f"/v2/models/{model}{path}"
    headers = {"content-type": "application/json"} if body else {}
    return httpx.request(method, url + path, content=body, headers=headers, timeout=30)


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_side_by_side(iris: Server, peers: list[str], name: str) -> None:
    request, statuses, reason = REQUESTS[name]
    assert (len(set(statuses)) > 1) == bool(reason)
    answers = [ask(iris.url, "iris_svc", request), *(ask(url, "model", request) for url in peers)]
    assert tuple(answer.status_code for answer in answers) == statuses, [answer.text[:300] for answer in answers]
    if statuses[0] >= 400:
        assert list(answers[0].json()) == ["error"]
        return
    ours, *others = [answer.json() if answer.text else {} for answer in answers]
    if request[1] == "/infer":
        probabilities = ours["outputs"][0]
        for other in others:
            # Each server's runtime names its outputs; MLServer adds a content type, and none of them answers the label.
            [output] = other["outputs"]
            assert {field: probabilities[field] for field in ("datatype", "shape")} == {
                field: output[field] for field in ("datatype", "shape")
            }
            assert output["data"] == pytest.approx(probabilities["data"], abs=1e-6)
            assert other["id"] == ours["id"] or name == "no id"
    else:
        # The health of MLServer has no body, and no other server's metadata has the model's tensors.
        assert all(set(other) <= {*ours, "parameters"} for other in others)


def test_the_client_of_kserve(iris: Server) -> None:
    python = environment_of("protocol-kserve", ROOT / "benchmarks" / "server" / "peers" / "protocol_kserve.py")
    run = subprocess.run(
        [python, CLIENT, iris.url.rstrip("/")], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["ready"] == [True, True, True]
    expected = [number for row in iris.predict([SETOSA, VIRGINICA]) for number in row]
    for form in ("JSON", "binary"):
        assert found[form]["probabilities"] == pytest.approx(expected, abs=1e-6)
        assert found[form]["label"] == ["setosa", "virginica"]
    assert 'The datatype of the input "data" is "FP64"; expected "FP32".' in found["error"].replace("\\", "")
