"""The answers of the prediction routes, before they become JSON."""

import numpy as np
import pytest

from model_server.model import Model
from model_server.settings import Settings
from tests.support.processes import IRIS


@pytest.fixture(scope="module")
def iris() -> Model:
    return Model.load(Settings.read(IRIS))


SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]


def test_one_row_stands_alone(iris: Model) -> None:
    rows = np.array([SETOSA], np.float32)
    assert [round(probability, 2) for probability in iris.predict(rows)] == [0.97, 0.02, 0.01]
    assert iris.predict_label(rows) == "setosa"


def test_several_rows_are_a_list_in_order(iris: Model) -> None:
    rows = np.array([SETOSA, VIRGINICA, SETOSA], np.float32)
    one_by_one = [iris.predict(rows[index : index + 1]).tolist() for index in range(3)]
    assert iris.predict(rows).tolist() == one_by_one
    assert iris.predict_label(rows) == ["setosa", "virginica", "setosa"]


def test_labels(iris: Model) -> None:
    assert iris.labels == {"0": "setosa", "1": "versicolor", "2": "virginica"}


def test_more_rows_take_more_time(iris: Model) -> None:
    assert 0 < iris.seconds(1) <= iris.seconds(1000)


def test_each_row_of_a_slow_model_takes_as_long_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.model._SLOW_SECONDS", 0)
    slow = Model.load(Settings.read(IRIS))
    assert slow.seconds(10) == pytest.approx(10 * slow.seconds(1))
