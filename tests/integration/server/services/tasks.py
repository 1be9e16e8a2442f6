"""A service with a task and a deployment hook."""

import os
from pathlib import Path

import bentoml

import service
from model_server.adapters.bento import ModelService


@bentoml.service(name="tasks", service_class=ModelService)  # type: ignore[operator]
@bentoml.asgi_app(service.app)
class Tasks(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with a task and a hook."""

    @bentoml.on_deployment
    def prepare() -> None:
        Path(os.environ["PREPARED"]).touch()

    @bentoml.task(route="/add")
    def add(self, a: int, b: int) -> int:
        return a + b
