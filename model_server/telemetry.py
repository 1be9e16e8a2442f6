"""What the service counts, under the names of BentoML's own metrics."""

from collections.abc import Mapping
from typing import Any

import prometheus_client

_LABELS = ("endpoint", "service_name", "service_version", "http_response_code")


class Telemetry:
    """Counts and times requests by route and status.

    BentoML's own middleware labels by the raw path, so that any client could grow its memory without bound.

    Args:
        service_name: the label that BentoML gives to its metrics.
        service_version: likewise.
        model: what to say of the model that is served.
    """

    def __init__(self, service_name: str, service_version: str, model: Mapping[str, str]) -> None:
        self._service = (service_name, service_version)
        self._total = prometheus_client.Counter(
            "bentoml_service_request_total", "Requests answered", _LABELS, registry=None
        )
        self._seconds = prometheus_client.Histogram(
            "bentoml_service_request_duration_seconds", "Seconds from request to answer", _LABELS, registry=None
        )
        self._registry = prometheus_client.CollectorRegistry()
        prometheus_client.Info("model", "The model that is served", registry=self._registry).info(dict(model))
        self._registry.register(self._total)
        self._registry.register(self._seconds)
        self._children: dict[tuple[str, int], tuple[Any, Any]] = {}

    def observe(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            endpoint: its route, never its raw path.
            status: HTTP status code of the answer.
            seconds: time from request to answer.
        """
        children = self._children.get((endpoint, status))
        if children is None:
            labels = (endpoint, *self._service, str(status))
            children = self._total.labels(*labels), self._seconds.labels(*labels)
            self._children[endpoint, status] = children
        total, duration = children
        total.inc()
        duration.observe(seconds)

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return prometheus_client.generate_latest(self._registry)
