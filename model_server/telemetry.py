"""What the service counts, under the names of BentoML's own metrics."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate

import prometheus_client
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_LABELS = ("endpoint", "service_name", "service_version", "http_response_code")
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = (*map(str, _BUCKETS), "+Inf")


class Telemetry(Collector):
    """Counts and times requests by route and status; for one thread, so that no count needs a lock.

    BentoML's own middleware labels by the raw path, so that any client could grow its memory without bound.

    Args:
        service_name: the label that BentoML gives to its metrics.
        service_version: likewise.
        model: what to say of the model that is served.
    """

    def __init__(self, service_name: str, service_version: str, model: Mapping[str, str]) -> None:
        self._service = (service_name, service_version)
        self._counts: dict[tuple[str, int], list[int]] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        self._registry = prometheus_client.CollectorRegistry()
        prometheus_client.Info("model", "The model that is served", registry=self._registry).info(dict(model))
        self._registry.register(self)

    def observe(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            endpoint: its route, never its raw path.
            status: HTTP status code of the answer.
            seconds: time from request to answer.
        """
        key = (endpoint, status)
        if key not in self._counts:
            self._counts[key], self._seconds[key] = [0] * len(_BOUNDS), 0.0
        self._counts[key][bisect_left(_BUCKETS, seconds)] += 1
        self._seconds[key] += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the requests."""
        total = CounterMetricFamily("bentoml_service_request", "Requests answered", labels=_LABELS)
        duration = HistogramMetricFamily(
            "bentoml_service_request_duration_seconds", "Seconds from request to answer", labels=_LABELS
        )
        for (endpoint, status), counts in self._counts.items():
            labels = (endpoint, *self._service, str(status))
            cumulative = list(accumulate(counts))
            total.add_metric(labels, cumulative[-1])
            duration.add_metric(labels, list(zip(_BOUNDS, cumulative, strict=True)), self._seconds[endpoint, status])
        yield total
        yield duration

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return prometheus_client.generate_latest(self._registry)
