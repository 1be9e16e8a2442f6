"""A service with middleware that changes headers, answers and paths."""

import bentoml
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import service
from model_server.adapters.bento import ModelService


class Layer(BaseHTTPMiddleware):
    """Middleware that adds a header to every answer."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-layer"] = "here"
        return response


class Replacement:
    """Middleware that waits for the answer and replaces it if the client requests that."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def drop(_: Message) -> None:
            return

        if scope["type"] == "http" and (b"x-replace", b"late") in scope["headers"]:
            await self._app(scope, receive, drop)
            await PlainTextResponse("the quota is used up", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Versions:
    """Middleware that serves /v1/... like /..."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix("/v1")}
        await self._app(scope, receive, send)


@bentoml.service(name="layered", service_class=ModelService)  # type: ignore[operator]
@bentoml.asgi_app(service.app)
class Layered(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with that middleware."""


for middleware in (Layer, Replacement, Versions, GZipMiddleware):
    Layered.add_asgi_middleware(middleware)
