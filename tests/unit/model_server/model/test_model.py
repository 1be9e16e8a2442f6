"""The predictions of a model, and its estimated latency."""

import math
from pathlib import Path

import numpy as np
import pytest

from model_server.check import examine
from model_server.errors import StartError
from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.classifiers import classifier, save
from tests.support.processes import IRIS


@pytest.fixture(scope="module")
def iris() -> Model:
    return Model.load(Settings.read(IRIS))


SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]


def test_rows_are_answered_in_order(iris: Model) -> None:
    rows = np.array([SETOSA, VIRGINICA, SETOSA], np.float32)
    one_by_one = [iris.predict(rows[index : index + 1])[0].tolist() for index in range(3)]
    assert [round(probability, 2) for probability in one_by_one[0]] == [0.97, 0.02, 0.01]
    assert iris.predict(rows).tolist() == one_by_one
    assert iris.predict_label(rows) == ["setosa", "virginica", "setosa"]


def test_labels(iris: Model) -> None:
    assert iris.labels == {"0": "setosa", "1": "versicolor", "2": "virginica"}


def test_classes_without_names_in_a_directory_are_named_by_index(tmp_path: Path) -> None:
    model_path, label_path = save(classifier(), tmp_path, ["a", "b", "c"])
    named = Model.load(Settings.read({"MODEL_FILEPATH": str(tmp_path)}))
    assert named.labels == {"0": "a", "1": "b", "2": "c"}
    label_path.unlink()
    unnamed = Model.load(Settings.read({"MODEL_FILEPATH": str(tmp_path)}))
    assert unnamed.labels == examine(tmp_path, None)["labels"] == {"0": "0", "1": "1", "2": "2"}
    rows = np.eye(4, dtype=np.float32)
    assert unnamed.predict(rows).tolist() == named.predict(rows).tolist()
    assert [named.labels[index] for index in unnamed.predict_label(rows)] == named.predict_label(rows)
    with pytest.raises(StartError, match="does not name its 3 classes itself"):
        Model.load(Settings.read({"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": ""}))


@pytest.mark.parametrize(
    ("one", "many", "ten"),
    [(0.001, 0.004, 0.001 + 9 * 0.001), (0.0001, 0.0001, 0.0001), (0.02, None, 0.2)],
    ids=["rows cost", "rows cost nothing", "slow"],
)
def test_latency_of_many_rows_is_estimated(
    monkeypatch: pytest.MonkeyPatch, one: float, many: float | None, ten: float
) -> None:
    """The latencies of one row and of several rows are measured; each additional row costs the average difference."""
    measured = [0.1, *4 * [one], 0.1, *4 * [many]]
    monkeypatch.setattr("model_server.model.model.timeit.timeit", lambda *_, **__: measured.pop(0))
    monkeypatch.setattr("model_server.model.model._LONG_SECONDS", 4 * one if many else 0.005)
    assert Model.load(Settings.read(IRIS)).estimate_latency(10) == pytest.approx(ten)


def test_latency_of_rows_of_dynamic_length_is_unknown(tmp_path: Path) -> None:
    model_path, label_path = save(classifier(row_shape=("length", 2)), tmp_path, ["a", "b", "c"])
    settings = Settings.read({"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)})
    model = Model.load(settings)
    assert model.estimate_latency(1) == model.estimate_latency(2) == math.inf
    assert 0 < model.sample_seconds < math.inf


def test_a_long_inference_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([30.0])
    monkeypatch.setattr("model_server.model.model.timeit.timeit", lambda *_, **__: next(measured))
    assert Model.load(Settings.read(IRIS)).estimate_latency(2) == 60
