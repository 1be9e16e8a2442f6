"""The five routes, exactly as in the specification."""

import math

import pytest

from tests.support.processes import Server

SETOSA = [5.1, 3.5, 1.4, 0.2]
VIRGINICA = [6.3, 3.3, 6.0, 2.5]


def test_health(iris: Server) -> None:
    response = iris.client.get("/health")
    assert (response.status_code, response.json()) == (200, {"health": "ok"})


def test_metadata(iris: Server) -> None:
    response = iris.client.get("/metadata")
    assert (response.status_code, response.json()) == (
        200,
        {
            "data_type": "float32",
            "data_shape": "(1, 4)",
            "data_sample": [[5.1, 3.5, 1.4, 0.2]],
            "prediction_type": "float32",
            "prediction_shape": "(1, 3)",
            "prediction_sample": [0.97, 0.02, 0.01],
        },
    )


def test_label(iris: Server) -> None:
    response = iris.client.get("/label")
    assert (response.status_code, response.json()) == (200, {"0": "setosa", "1": "versicolor", "2": "virginica"})


def test_predict_one_row(iris: Server) -> None:
    response = iris.client.post("/predict", json={"data": [SETOSA]})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["prediction"]
    probabilities = response.json()["prediction"]
    assert [round(probability, 2) for probability in probabilities] == [0.97, 0.02, 0.01]
    assert probabilities != [0.97, 0.02, 0.01]
    assert math.isclose(sum(probabilities), 1, abs_tol=1e-6)


def test_predict_label_of_one_row(iris: Server) -> None:
    response = iris.client.post("/predict/label", json={"data": [SETOSA]})
    assert (response.status_code, response.json()) == (200, {"prediction": "setosa"})


@pytest.mark.parametrize("count", [2, 3, 5000])
def test_many_rows_are_answered_in_order(iris: Server, count: int) -> None:
    rows = [SETOSA, VIRGINICA, *[SETOSA] * (count - 2)]
    setosa, virginica = iris.predict([SETOSA]), iris.predict([VIRGINICA])
    assert iris.predict(rows) == [setosa, virginica, *[setosa] * (count - 2)]
    assert iris.predict(rows, "/predict/label") == ["setosa", "virginica", *["setosa"] * (count - 2)]


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8", None]
)
def test_accepts_every_spelling_of_the_json_content_type(iris: Server, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = iris.client.post("/predict/label", content=b'{"data": [[5.1, 3.5, 1.4, 0.2]]}', headers=headers)
    assert (response.status_code, response.json()) == (200, {"prediction": "setosa"})


@pytest.mark.parametrize("route", ["/livez", "/readyz", "/healthz"])
def test_probes(iris: Server, route: str) -> None:
    assert iris.client.get(route).status_code == 200
