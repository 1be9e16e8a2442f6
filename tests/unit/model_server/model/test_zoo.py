"""Tabular models, exported by their libraries: served with equal predictions, or refused with a fix that works."""

import asyncio
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_server.errors import StartError
from model_server.model.model import Model
from model_server.model.rows import Rows
from model_server.model.tasks import Task
from model_server.prediction.batches import LoopBatches
from model_server.settings import Settings
from tests.support.zoo import ANOTHER_EXPORT, CLASSIFIERS, REGRESSORS, WITH_SETTING, Exported, label_file


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Ignore the warnings of the training and export libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(exported: Exported, directory: Path, setting: str = "", *, with_labels: bool = False) -> Model:
    (directory / "model.onnx").write_bytes(exported.content)
    environment = {"MODEL_FILEPATH": str(directory / "model.onnx"), "MODEL_OUTPUT": setting}
    if with_labels:
        (directory / "label.json").write_text(label_file(exported.names))
        environment["LABEL_FILEPATH"] = str(directory / "label.json")
    return Model.load(Settings.read(environment))


def check(model: Model, exported: Exported) -> None:
    rows = model.spec.rows(exported.data)
    expected = np.asarray(exported.predict(exported.rows))
    np.testing.assert_allclose(model.predict(rows), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    if model.task is Task.CLASSES:
        assert list(model.labels.values()) == exported.names
        assert model.predict_label(rows) == [exported.names[index] for index in expected.argmax(axis=1)]
    if model.batching.is_on:
        check_batches(model, rows)


def check_batches(model: Model, rows: Rows) -> None:
    """Check that requests answered together get, to the last bit, the answers that they get alone."""
    answered: dict[int, object] = {}
    sizes: list[int] = []

    async def answer_together() -> None:
        batches = LoopBatches(
            lambda some, _entries: model.predict(some),
            model.batching.max_rows,
            lambda count, _seconds: sizes.append(count),
        )
        chance = random.Random(0)  # noqa: S311 (a fixed seed)
        for index in range(len(rows)):

            def deliver(answers: Any, error: BaseException | None, index: int = index) -> None:
                answered[index] = error or np.asarray(answers).tolist()

            batches.submit(rows[index : index + 1], deliver)
            if chance.random() < 1 / 16:
                await asyncio.sleep(0)  # ends a turn of the event loop
        await asyncio.sleep(0)

    asyncio.run(answer_together())
    assert max(sizes) > 1
    assert answered == {index: model.predict(rows[index : index + 1]).tolist() for index in range(len(rows))}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers(tmp_path: Path, kind: str) -> None:
    exported = CLASSIFIERS[kind](tmp_path)
    if not exported.names[0].isalpha() or exported.names[0] == "False":
        with pytest.raises(StartError, match=r"does not exist, and the model does not name its \d classes itself"):
            load(exported, tmp_path)
    else:
        check(load(exported, tmp_path), exported)
    check(load(exported, tmp_path, with_labels=True), exported)


@pytest.mark.parametrize("kind", REGRESSORS)
def test_regressors(tmp_path: Path, kind: str) -> None:
    exported = REGRESSORS[kind](tmp_path)
    model = load(exported, tmp_path)
    assert model.task is Task.VALUES
    check(model, exported)


@pytest.mark.parametrize("kind", WITH_SETTING)
def test_suggested_setting_works(tmp_path: Path, kind: str) -> None:
    make, setting = WITH_SETTING[kind]
    exported = make(tmp_path)
    with pytest.raises(StartError) as refusal:
        load(exported, tmp_path)
    assert refusal.value.fix.startswith(f"set MODEL_OUTPUT={setting} ")
    check(load(exported, tmp_path, setting, with_labels=setting == "sigmoid"), exported)


@pytest.mark.parametrize("kind", ANOTHER_EXPORT)
def test_suggested_export_works(tmp_path: Path, kind: str) -> None:
    make, change, make_again, setting = ANOTHER_EXPORT[kind]
    with pytest.raises(StartError) as refusal:
        load(make(tmp_path), tmp_path)
    assert change in refusal.value.fix
    exported = make_again(tmp_path)
    check(load(exported, tmp_path, setting, with_labels=bool(setting)), exported)
