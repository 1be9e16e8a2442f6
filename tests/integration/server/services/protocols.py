"""A service with edited methods, middleware and a prefix."""

from typing import Any

import bentoml
import numpy as np
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import service
from model_server.adapters.bento import ModelService
from model_server.api import Labels, Predictions, Rows


class Seen:
    """Middleware that adds the path of the request to the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-seen"] = scope["path"]
            await send(message)

        await self._app(scope, receive, add_header)


@bentoml.service(name="protocols", service_class=ModelService, path_prefix="/ml")  # type: ignore[operator]
class Protocols(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with other answers."""

    @bentoml.api(route="/predict")
    def predict(self, data: Rows) -> Predictions:
        return np.array([[1, 2, 3]] * len(data))

    @bentoml.api(route="/names")
    async def predict_label(self, data: Rows, suffix: str = "") -> Labels:
        names: list[Any] = [name.upper() + suffix for name in self.model.predict_label(data)]
        return names


Protocols.add_asgi_middleware(Seen)
