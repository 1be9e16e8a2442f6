"""A service with authentication and CORS."""

import bentoml
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

import service
from model_server.adapters.bento import ModelService


class Authentication:
    """Middleware that requires a key, except for probes."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_probe = scope["type"] != "http" or scope["path"] == "/readyz"
        if not is_probe and dict(scope["headers"]).get(b"x-key") != self._key:
            await PlainTextResponse("a key is required", 401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@bentoml.service(  # type: ignore[operator]
    name="guarded",
    service_class=ModelService,
    http={"cors": {"enabled": True, "access_control_allow_origins": ["https://example.com"]}},
)
@bentoml.asgi_app(service.app)
class Guarded(service.ModelLoadServer.inner):  # type: ignore[name-defined, misc]
    """The service with authentication and CORS."""


Guarded.add_asgi_middleware(Authentication, key="k")
