"""A service with everything that users of BentoML add: methods, mounted applications, errors and metrics.

With STOCK=true, they are added to a stock BentoML service, for comparison.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import bentoml
import prometheus_client
from bentoml.exceptions import InvalidArgument, NotFound
from fastapi import FastAPI, HTTPException, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import service
from model_server.adapters.bento import ModelService
from model_server.api import Labels, Rows
from model_server.http.errors import RequestError

IS_STOCK = "STOCK" in os.environ
CALLS = prometheus_client.Counter("own_calls", "Calls of the user's own route")
extra = FastAPI()


@extra.get("/items/{number}")
async def item(number: int) -> int:
    if number > 9:
        raise HTTPException(404, f"there is no item {number}")
    return number


@extra.get("/closed")
async def closed() -> Response:
    return Response(status_code=499)


@extra.get("/stream")
async def stream(seconds: float) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(4):
            await asyncio.sleep(seconds / 4)
            yield "part "

    return StreamingResponse(parts())


@extra.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"WSGI at {environ['PATH_INFO']}".encode()]


async def plain(scope: Scope, _receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"plain ASGI"})


class Own:
    """Methods without rows."""

    @bentoml.api(route="/own")
    def own(self, text: str, times: int = 2) -> str:
        CALLS.inc()
        return text * times

    @bentoml.api(route="/slow")
    async def slow(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @bentoml.api(route="/invalid")
    def invalid(self) -> str:
        raise InvalidArgument("these are my own words")

    @bentoml.api(route="/missing")
    def missing(self) -> str:
        raise NotFound("there is no such flower")

    @bentoml.api(route="/refused")
    def refused(self) -> str:
        raise RequestError("the service says no")

    @bentoml.api(route="/failing")
    def failing(self) -> str:
        raise RuntimeError("secret of the house")


if IS_STOCK:

    @bentoml.service(name="stock", traffic={"timeout": 6})  # type: ignore[operator]
    @bentoml.asgi_app(extra, path="/extra")
    class Extended(Own):
        """A stock BentoML service."""

else:

    @bentoml.service(name="extended", traffic={"timeout": 6}, service_class=ModelService)  # type: ignore[operator]
    @bentoml.asgi_app(service.app)
    @bentoml.asgi_app(extra, path="/extra")
    class Extended(Own, service.ModelLoadServer.inner):  # type: ignore[name-defined, misc, no-redef]
        """Our service with additions."""

        @bentoml.api(route="/predict/top")
        def predict_top(self, data: Rows, count: int = 1) -> list[list[str]]:
            names = list(self.model.labels.values())
            return [[names[index] for index in row.argsort()[::-1][:count]] for row in self.model.predict(data)]

        @bentoml.api(route="/predict/later")
        async def predict_later(self, data: Rows) -> Labels:
            await asyncio.sleep(0.01)
            return [f"{name} later" for name in self.model.predict_label(data)]


mounting: Any = Extended
mounting.mount_wsgi_app(wsgi, path="/wsgi")
mounting.mount_asgi_app(StaticFiles(directory=Path(__file__).parent), path="/files")
mounting.mount_asgi_app(plain, path="/plain")
