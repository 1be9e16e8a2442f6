"""A service whose methods take rows and do more than call the model."""

import asyncio
import time

import bentoml
from bentoml.exceptions import NotFound, ServiceUnavailable
from fastapi import HTTPException
from pydantic import BaseModel

import service
from model_server.adapters.bento import ModelService
from model_server.api import Labels, Rows


class Flower(BaseModel):
    """An answer to one row."""

    name: str
    petals: tuple[float, float]


@bentoml.service(name="methods", service_class=ModelService)  # type: ignore[operator]
@bentoml.asgi_app(service.app)
class Methods(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with more methods that take rows."""

    @bentoml.api(route="/slow")
    def slow(self, data: Rows, seconds: float) -> Labels:
        time.sleep(seconds)
        return ["late"] * len(data)

    @bentoml.api(route="/keyword")
    def keyword(self, *, data: Rows, suffix: str = "") -> Labels:
        return [name + suffix for name in self.model.predict_label(data)]

    @bentoml.api(route="/later")
    async def later(self, data: Rows, seconds: float = 0) -> Rows:
        await asyncio.sleep(seconds)
        return data

    @bentoml.api(route="/flowers")
    def flowers(self, data: Rows) -> list[Flower]:
        names = self.model.predict_label(data)
        return [Flower(name=name, petals=tuple(row[2:])) for name, row in zip(names, data.tolist(), strict=True)]

    @bentoml.api(route="/late")
    def late(self, data: Rows) -> Labels:
        raise TimeoutError("secret of the feature store")

    @bentoml.api(route="/late/async")
    async def late_async(self, data: Rows) -> Labels:
        raise TimeoutError("secret of the feature store")

    @bentoml.api(route="/missing")
    def missing(self, data: Rows) -> Labels:
        raise NotFound("there is no\nsuch flower")

    @bentoml.api(route="/gone")
    def gone(self, data: Rows, status: int) -> Labels:
        raise HTTPException(status, {"flower": "sold\nout"}, {"X-Why": "season"})

    @bentoml.api(route="/unavailable")
    def unavailable(self, data: Rows) -> Labels:
        raise ServiceUnavailable("secret of the feature store")
