"""The routes in addition to the specified five: the model page, the API reference and the metrics."""

import hashlib
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.http.form import make_fields
from model_server.model.columns_spec import ColumnsSpec
from model_server.model.model import Model
from model_server.model.row_spec import RowSpec
from model_server.observability.metrics import Metrics

_PAGE = Path(__file__).with_name("page.html")
_SERVED = "{{ served }}"


class Pages:
    """The routes `/`, `/docs`, `/docs.json` and `/metrics`.

    They replace BentoML's own page, which loads a script from another host.

    Args:
        title: name of the service.
        metrics: the metrics at `/metrics`; None to omit that route.

    Attributes:
        routes: the Starlette routes.
    """

    def __init__(self, title: str, metrics: Metrics | None) -> None:
        self._metrics = metrics
        self._about_model = Response(status_code=503)
        self._document = b""
        self._reference = get_swagger_ui_html(
            title=title,
            openapi_url="docs.json",
            swagger_js_url="static_content/swagger-ui-bundle.js",
            swagger_css_url="static_content/swagger-ui.css",
            swagger_favicon_url="static_content/favicon-light-32x32.png",
        )
        self.routes = [
            Route("/", self._model_page),
            Route("/docs", self._api_page),
            Route("/docs.json", self._api_document),
            *([Route("/metrics", self._exposition)] if metrics else []),
        ]

    def show(self, model: Model, document: dict[str, Any]) -> None:
        """Set the model of the model page, and the OpenAPI document of the API reference."""
        self._about_model = _model_page(model)
        self._document = orjson.dumps(document)

    async def _model_page(self, _: Request) -> Response:
        return self._about_model

    async def _api_page(self, _: Request) -> Response:
        return self._reference

    async def _api_document(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def _exposition(self, _: Request) -> Response:
        exposition = self._metrics.exposition() if self._metrics else b""
        return Response(exposition, media_type=CONTENT_TYPE_LATEST)


def _model_page(model: Model) -> Response:
    """Return the model page; its Content-Security-Policy allows only the script and style in `page.html`."""
    template = _PAGE.read_text(encoding="utf-8")
    hashes = {kind: _hash_element(kind, template) for kind in ("script", "style")}
    spec, metadata, sample = model.spec, model.metadata, model.metadata.data_sample[0]
    served = {
        "name": model.name,
        **model.info,
        "type": metadata.data_type,
        "columns": list(spec.inputs) if isinstance(spec, ColumnsSpec) else None,
        "shape": spec.row_shape if isinstance(spec, RowSpec) else [],
        "limits": list(map(str, spec.limits)) if isinstance(spec, RowSpec) else [],
        "fields": make_fields(spec, model.feature_names, sample, model.categories),
        "sample": orjson.dumps(sample).decode(),
        "prediction_type": metadata.prediction_type,
        "task": model.task,
        "prediction_shape": model.prediction_shape,
        "labels": list(model.labels.values()),
    }
    # A name that contains "</script>" must not close the script element.
    page = template.replace(_SERVED, orjson.dumps(served).decode().replace("<", "\\u003c")).encode()
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


def _hash_element(element: str, page: str) -> str:
    """Return the Content-Security-Policy source for the page's only element of this kind without attributes."""
    [content] = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
