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
    assert [round(probability, 2) for probability in iris.predict(rows)] == [0.97, 0.02, 0.01]  # type: ignore[arg-type]
    assert iris.predict_label(rows) == "setosa"


def test_several_rows_are_a_list_in_order(iris: Model) -> None:
    rows = np.array([SETOSA, VIRGINICA, SETOSA], np.float32)
    assert iris.predict(rows) == [iris.predict(rows[index : index + 1]) for index in range(3)]
    assert iris.predict_label(rows) == ["setosa", "virginica", "setosa"]


def test_labels_and_time(iris: Model) -> None:
    assert iris.labels == {"0": "setosa", "1": "versicolor", "2": "virginica"}
    assert iris.seconds > 0
