"""The routes of the Open Inference Protocol, version 2, for the one model that is served."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from model_server.http.asgi import AsgiEndpoint, Refusal
from model_server.http.endpoint import Endpoint
from model_server.http.errors import no_model
from model_server.protocols.open_inference import EXTENSIONS, OpenInference

ROOT = "/v2"
LIVE, READY = f"{ROOT}/health/live", f"{ROOT}/health/ready"
MODELS = f"{ROOT}/models"
MODEL = f"{MODELS}/{{model_name}}"
VERSION = f"{MODEL}/versions/{{model_version}}"
INFER = f"{MODEL}/infer"

Check = Callable[[Request], Awaitable[Response]]


class InferenceRoutes:
    """The routes below `/v2`.

    Args:
        name: name of the server.
        version: version of the server.

    Attributes:
        routes: the Starlette routes.
        checks: BentoML's checks, which raise an exception if they fail, by name: `livez` and `readyz`.
    """

    def __init__(self, name: str, version: str) -> None:
        self._server = {"name": name, "version": version, "extensions": EXTENSIONS}
        self._name = self._version = ""
        self._metadata: dict[str, Any] = {}
        self._infer: ASGIApp = Response(status_code=503)
        self.checks: Mapping[str, Check] = {}
        self.routes = [
            Route(ROOT, self._answer_server),
            Route(LIVE, self._answer_live),
            Route(READY, self._answer_ready),
            Route(MODELS, self._answer_models),
        ]
        for path in (MODEL, VERSION):
            self.routes += [
                Route(path, self._answer_model),
                Route(f"{path}/ready", self._answer_model_ready),
                Route(f"{path}/infer", self._answer_infer, methods=["POST"]),
            ]

    def show(self, protocol: OpenInference, endpoint: Endpoint) -> None:
        """Begin to answer.

        Args:
            protocol: the name, version and metadata of the model.
            endpoint: answers `infer`.
        """
        self._name, self._version, self._metadata = protocol.name, protocol.version, protocol.metadata
        self._infer = AsgiEndpoint(endpoint)

    def paths(self) -> dict[str, str]:
        """Return the route of each path of the served model."""
        values = {"model_name": self._name, "model_version": self._version}
        return {route.path.format(**values): route.path for route in self.routes}

    def _refuse(self, request: Request) -> Refusal | None:
        """Return the refusal of a request for another model or version; None if it is for the served one."""
        name, version = request.path_params["model_name"], request.path_params.get("model_version", self._version)
        if (name, version) == (self._name, self._version):
            return None
        if name != self._name:
            return Refusal(no_model("model", name, self._name))
        return Refusal(no_model("version", version, self._version))

    async def _answer_server(self, _: Request) -> ASGIApp:
        return _json(self._server)

    async def _answer_live(self, request: Request) -> ASGIApp:
        await self.checks["livez"](request)
        return _json({"live": True, "ready": True})

    async def _answer_ready(self, request: Request) -> ASGIApp:
        await self.checks["readyz"](request)
        return _json({"live": True, "ready": True})

    async def _answer_models(self, _: Request) -> ASGIApp:
        return _json({"models": [self._name] if self._name else []})

    async def _answer_model(self, request: Request) -> ASGIApp:
        return self._refuse(request) or _json(self._metadata)

    async def _answer_model_ready(self, request: Request) -> ASGIApp:
        if refusal := self._refuse(request):
            return refusal
        await self.checks["readyz"](request)
        return _json({"name": self._name, "ready": True})

    async def _answer_infer(self, request: Request) -> ASGIApp:
        return self._refuse(request) or self._infer


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
