"""The API reference, its OpenAPI document and the metrics; test_page.py tests the model's page."""

import re

import pytest
from onnx import TensorProto

from tests.support.classifiers import classifier, save
from tests.support.processes import ONE_PROCESS, Server, serving


def test_reference_reaches_no_other_host(iris: Server) -> None:
    page = iris.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
    references = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text) + re.findall(r"url: '([^']+)'", page.text)
    assert "docs.json" in references
    for reference in references:
        assert iris.client.get(f"/{reference}").status_code == 200, reference


def test_document_describes_the_five_routes(iris: Server) -> None:
    document = iris.client.get("/docs.json").json()
    assert {path: list(item) for path, item in document["paths"].items() if not path.startswith("/v2")} == {
        "/health": ["get"],
        "/metadata": ["get"],
        "/label": ["get"],
        "/predict": ["post"],
        "/predict/label": ["post"],
    }
    for path in ("/health", "/metadata", "/label"):
        assert set(document["paths"][path]["get"]["responses"]) == {"200", "500"}
    for path in ("/predict", "/predict/label"):
        operation = document["paths"][path]["post"]
        assert set(operation["responses"]) == {"200", "400", "408", "413", "415", "431", "500", "503", "504"}
        for status, response in operation["responses"].items():
            schema = response["content"]["application/json"]["schema"]
            assert schema["required"] == (["prediction"] if status == "200" else ["detail"])
        request = operation["requestBody"]["content"]["application/json"]["schema"]
        assert request["example"] == {"data": [[5.1, 3.5, 1.4, 0.2]]}
        assert request["additionalProperties"] is False
        row, by_name = request["properties"]["data"]["items"]["anyOf"]
        assert (row["minItems"], row["maxItems"], row["items"]["type"]) == (4, 4, "number")
        assert by_name["required"][0] == "sepal length (cm)"
        assert iris.client.post(path, json=request["example"]).status_code == 200
    names = document["paths"]["/predict/label"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert names["properties"]["prediction"]["anyOf"][0]["enum"] == ["setosa", "versicolor", "virginica"]


def test_the_openapi_document_describes_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("uint8")
    made = classifier(TensorProto.UINT8, ("height", 2), classes=2)
    model_path, label_path = save(made, home, ["no", "yes"])
    environment = {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path), "MAX_ROW_LENGTH": "100"}
    with serving(home, environment, command=ONE_PROCESS) as server:
        document = server.client.get("/docs.json").json()
    request = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert request["properties"]["data"]["items"] == {
        "type": "array",
        "minItems": 1,
        "maxItems": 100,
        "items": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
        },
    }


def test_metrics_count_requests_by_route_and_status(iris: Server) -> None:
    def count(endpoint: str, status: int) -> float:
        text = iris.client.get("/metrics").text
        found = re.search(
            rf'^bentoml_service_request_total{{endpoint="{endpoint}",http_response_code="{status}",.*}} (\S+)$',
            text,
            re.MULTILINE,
        )
        return float(found[1]) if found else 0

    before = count("/predict/label", 200), count("/predict/label", 400)
    seen = {route: count(route, 200) for route in ("/", "/docs", "/docs.json", "/health", "/label", "/livez")}
    for route in seen:
        iris.client.get(route)
    assert {route: count(route, 200) for route in seen} == {route: number + 1 for route, number in seen.items()}
    iris.client.post("/predict/label", json={"data": [[5.1, 3.5, 1.4, 0.2]]})
    iris.client.post("/predict/label", json={"data": []})
    assert (count("/predict/label", 200), count("/predict/label", 400)) == (before[0] + 1, before[1] + 1)


def test_unknown_paths_add_no_metrics(iris: Server) -> None:
    for path in ("/unknown/0", "/metrics"):
        iris.client.get(path)
    series = iris.client.get("/metrics").text.count("\n")
    for number in range(50):
        iris.client.get(f"/unknown/{number}")
    assert iris.client.get("/metrics").text.count("\n") == series
    assert 'endpoint="other",http_response_code="404"' in iris.client.get("/metrics").text
