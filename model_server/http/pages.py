"""What the service shows beside its five routes: a page about its model, the API's reference and the metrics."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from model_server.model.model import Model
from model_server.observability.metrics import Telemetry
from model_server.protocols.codec import encode
from model_server.schemas import add_predictions

_PAGE = Path(__file__).with_name("page.html")
_SERVED = "{{ served }}"


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


def page_routes(title: str, document: dict[str, Any], model: Model, telemetry: Telemetry) -> list[Route]:
    """Return the routes `/`, `/docs`, `/docs.json` and `/metrics`.

    BentoML's own page loads a script from another host.

    Args:
        title: name of the service.
        document: the OpenAPI document.
        model: the model that is served.
        telemetry: holds the metrics.
    """
    document_body = encode(document)
    about_model = _model_page(model)
    reference = get_swagger_ui_html(
        title=title,
        openapi_url="docs.json",
        swagger_js_url="static_content/swagger-ui-bundle.js",
        swagger_css_url="static_content/swagger-ui.css",
        swagger_favicon_url="static_content/favicon-light-32x32.png",
    )

    async def model_page(_: Request) -> Response:
        return about_model

    async def api_page(_: Request) -> Response:
        return reference

    async def api_document(_: Request) -> Response:
        return Response(document_body, media_type="application/json")

    async def metrics(_: Request) -> Response:
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/", model_page),
        Route("/docs", api_page),
        Route("/docs.json", api_document),
        Route("/metrics", metrics),
    ]


def _model_page(model: Model) -> Response:
    """Return the page about the model, which may run and load nothing but what stands in `page.html`."""
    template = _PAGE.read_text(encoding="utf-8")
    hashes = {kind: _hash_of(kind, template) for kind in ("script", "style")}
    codec, metadata = model.codec, model.metadata
    served = {
        "name": model.name,
        **model.info,
        "type": metadata.data_type,
        "shape": codec.row_shape,
        "limits": list(map(str, codec.limits)),
        "features": model.feature_names,
        "sample": encode(metadata.data_sample[0]).decode(),
        "prediction_type": metadata.prediction_type,
        "labels": list(model.labels.values()),
    }
    # A name that has "</script>" in it must not end the element that holds it.
    page = template.replace(_SERVED, encode(served).decode().replace("<", "\\u003c")).encode()
    return Response(
        page,
        media_type="text/html",
        headers={
            "cache-control": "no-cache",
            "content-security-policy": f"default-src 'none'; script-src {hashes['script']}; "
            f"style-src {hashes['style']}; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
            "etag": f'"{hashlib.sha256(page).hexdigest()}"',
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )


def _hash_of(element: str, page: str) -> str:
    """Return what allows the page's only plain element of this kind in its Content-Security-Policy."""
    [content] = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
