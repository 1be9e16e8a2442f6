"""A service that fails in every request with an unexpected exception."""

from collections.abc import Iterator
from typing import NoReturn

import bentoml
import prometheus_client
from prometheus_client import Metric
from prometheus_client.registry import Collector

import service
from model_server.adapters.bento import ModelService
from model_server.api import Labels, Probabilities, Rows


def fail() -> NoReturn:
    raise RuntimeError("secret of the house")


class BrokenCollector(Collector):
    """Metrics that cannot be collected."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        fail()


prometheus_client.REGISTRY.register(BrokenCollector())


@service.app.get("/broken")
def broken() -> None:
    fail()


@bentoml.service(name="model_load_server", service_class=ModelService)  # type: ignore[operator]
@bentoml.asgi_app(service.app)
class Broken(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with methods that fail."""

    @bentoml.api(route="/predict")
    def predict(self, data: Rows) -> Probabilities:
        fail()

    @bentoml.api(route="/predict/label")
    def predict_label(self, data: Rows) -> Labels:
        fail()
