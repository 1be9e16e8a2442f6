"""Where the steps of a prediction run."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_server.http.admission import Admission
from model_server.http.endpoint import Endpoint, Shared
from model_server.http.methods import MethodCall, RowsMethod
from model_server.model.model import Model
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.observability.log import Log
from model_server.observability.metrics import Metrics
from model_server.observability.observer import Observer
from model_server.prediction.runner import Runner
from model_server.protocols.json_protocol import JsonProtocol
from tests.support.classifiers import classifier, save

LABELS = ("a", "b", "c")
LARGE = b'{"data": [' + b"[1, 2, 3, 4]," * 4000 + b"[1, 2, 3, 4]]}"
SMALL = b'{"data": [[1, 2, 3, 4]]}'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path, _ = save(classifier(), tmp_path_factory.mktemp("model"), LABELS)
    file = ModelFile.read(path)
    return Model(Predictor(file, LABELS, None), LABELS, file)


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[Observer]:
    with (tmp_path / "log").open("wb") as file:
        yield Observer(Metrics("name", "version"), Log(file.fileno()), 0)


def threads_of_steps(model: Model, observer: Observer, *, is_async: bool, body: bytes) -> dict[str, bool]:
    """Answer a body, and return for each step whether it ran on the event loop."""
    on_loop: dict[str, bool] = {}

    def step(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            on_loop[name] = threading.current_thread() is threading.main_thread()
            return function(*arguments)

        return run

    async def asynchronous(rows: Any) -> Any:
        return rows

    async def answer() -> int:
        shared = Shared(Runner(1), Admission(1, 10**9), observer, 10**9, 60, step)
        shared.shared_step = step
        call = asynchronous if is_async else lambda rows: rows
        method = RowsMethod("same", "/same", "data", call, is_async, None, None, "Same.")
        endpoint = Endpoint("/same", MethodCall(method), JsonProtocol(model.spec, "data"), model, shared)
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        job = endpoint.answer(observer.begin(), {}, body, lambda status, _body, _headers: answered.set_result(status))
        assert (job is None) == answered.done()
        return await answered

    assert asyncio.run(answer()) == 200
    return on_loop


@pytest.mark.parametrize("is_async", [False, True])
def test_small_bodies_are_answered_on_the_event_loop(model: Model, observer: Observer, *, is_async: bool) -> None:
    on_loop = threads_of_steps(model, observer, is_async=is_async, body=SMALL)
    assert on_loop == {"parse": True, "inference": True, "encode": True}


@pytest.mark.parametrize("is_async", [False, True])
def test_large_bodies_are_read_and_written_in_threads(model: Model, observer: Observer, *, is_async: bool) -> None:
    on_loop = threads_of_steps(model, observer, is_async=is_async, body=LARGE)
    assert on_loop == {"parse": False, "inference": is_async, "encode": False}
