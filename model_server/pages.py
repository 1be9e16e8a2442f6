"""What the service shows beside its five routes: the API page, its OpenAPI document and the metrics."""

from collections.abc import Sequence
from typing import Any

from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from model_server.codec import encode
from model_server.model import Model
from model_server.schemas import add_predictions
from model_server.telemetry import Telemetry


def describe(title: str, routes: Sequence[BaseRoute], model: Model) -> dict[str, Any]:
    """Return the OpenAPI document of the service: its FastAPI routes and the prediction routes.

    BentoML's own document describes errors that we do not answer with and rows that the model does not take.

    Args:
        title: name of the service.
        routes: the FastAPI routes.
        model: the model that is served.
    """
    document = get_openapi(title=title, version="1", routes=routes)
    add_predictions(document, model.codec, model.metadata.data_sample, model.labels)
    return document


def page_routes(title: str, document: dict[str, Any], telemetry: Telemetry) -> list[Route]:
    """Return the routes `/`, `/docs.json` and `/metrics`.

    BentoML's own page loads a script from another host.

    Args:
        title: name of the service.
        document: the OpenAPI document.
        telemetry: holds the metrics.
    """
    document_body = encode(document)
    page = get_swagger_ui_html(
        title=title,
        openapi_url="docs.json",
        swagger_js_url="static_content/swagger-ui-bundle.js",
        swagger_css_url="static_content/swagger-ui.css",
        swagger_favicon_url="static_content/favicon-light-32x32.png",
    )

    async def api_page(_: Request) -> Response:
        return page

    async def api_document(_: Request) -> Response:
        return Response(document_body, media_type="application/json")

    async def metrics(_: Request) -> Response:
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/", api_page), Route("/docs.json", api_document), Route("/metrics", metrics)]
