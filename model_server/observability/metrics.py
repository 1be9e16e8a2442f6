"""What the service counts; requests under the names of BentoML's own metrics."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from itertools import accumulate

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from volume.receipt import Receipt

_SERVICE = ("service_name", "service_version")
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_INFERENCE_BUCKETS = (0.00001, 0.000025, 0.00005, *_BUCKETS)

UNAVAILABLE = "unavailable"  # the server stops, or cannot answer any request
UNREAD = "unread"  # the client did not read its answer
_REASONS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "invalid",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method",
    HTTPStatus.REQUEST_TIMEOUT: "timeout",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "media_type",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "too_large",
    HTTPStatus.SERVICE_UNAVAILABLE: "busy",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout",
}


def reason_of(status: int) -> str:
    """Return why a request was refused, by the status of its answer; empty when it was not refused."""
    return _REASONS.get(status, "")


class _Histogram:
    """How often what was observed fell into each bucket, and its sum."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._buckets, value)] += 1
        self._sum += value

    def add(self, other: "_Histogram") -> None:
        self._counts = [sum(pair) for pair in zip(self._counts, other._counts, strict=True)]
        self._sum += other._sum

    @property
    def count(self) -> int:
        return sum(self._counts)

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...] = ()) -> None:
        bounds = (*map(str, self._buckets), "+Inf")
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class Metrics(Collector):
    """Counts and times requests by route and status; for one thread, so that no count needs a lock.

    BentoML's own middleware labels by the raw path, so that any client could grow its memory without bound.

    Args:
        service_name: the label that BentoML gives to its metrics.
        service_version: likewise.

    Attributes:
        in_flight: gives the number of requests that are here and have no answer yet, and how many may be.
    """

    in_flight: Callable[[], tuple[int, int]] | None = None

    def __init__(self, service_name: str, service_version: str) -> None:
        self._service = (service_name, service_version)
        self._receipt: Receipt | None = None
        self._requests: dict[tuple[str, int], _Histogram] = {}
        self._refused = Counter(dict.fromkeys((*_REASONS.values(), UNAVAILABLE, UNREAD), 0))
        self._pauses = 0
        self._rows = 0
        self._inferences = _Histogram(_INFERENCE_BUCKETS)
        self._registry = prometheus_client.CollectorRegistry()
        self._model = prometheus_client.Info("model", "The model that is served", registry=self._registry)
        self._registry.register(self)

    def show_model(self, model: Mapping[str, str], receipt: Receipt | None) -> None:
        """Show the model that is served, and what its loader says about the load, if one brought it."""
        self._model.info(dict(model))
        self._receipt = receipt

    def observe(self, endpoint: str, status: int, seconds: float, reason: str = "") -> None:
        """Count one answered request.

        Args:
            endpoint: its route, never its raw path.
            status: HTTP status code of the answer.
            seconds: time from request to answer.
            reason: why it was refused, one that `reason_of` gives or `UNAVAILABLE`; empty when it was not.
        """
        histogram = self._requests.get((endpoint, status))
        if histogram is None:
            histogram = self._requests[endpoint, status] = _Histogram(_BUCKETS)
        histogram.observe(seconds)
        if reason:
            self._refused[reason] += 1

    def observe_unread(self) -> None:
        """Count a connection that was ended because its client did not read."""
        self._refused[UNREAD] += 1

    def observe_read_pause(self) -> None:
        """Count a pause in reading from a connection that has sent further requests before it was answered."""
        self._pauses += 1

    def observe_inference(self, rows: int, seconds: float) -> None:
        """Count what the model has answered: how many rows, and in how many seconds."""
        self._rows += rows
        self._inferences.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the requests, the model and its load."""
        total = CounterMetricFamily(
            "bentoml_service_request", "Requests answered", labels=("endpoint", *_SERVICE, "http_response_code")
        )
        duration = HistogramMetricFamily(
            "bentoml_service_request_duration_seconds",
            "Seconds from request to answer",
            labels=("endpoint", *_SERVICE, "status_class"),
        )
        by_class: dict[tuple[str, str], _Histogram] = {}
        for (endpoint, status), histogram in self._requests.items():
            total.add_metric((endpoint, *self._service, str(status)), histogram.count)
            by_class.setdefault((endpoint, f"{status // 100}xx"), _Histogram(_BUCKETS)).add(histogram)
        for (endpoint, status_class), histogram in by_class.items():
            histogram.add_to(duration, (endpoint, *self._service, status_class))
        yield total
        yield duration
        if self.in_flight:
            in_flight, limit = self.in_flight()
            progress = GaugeMetricFamily(
                "bentoml_service_request_in_progress", "Requests that have no answer yet", labels=_SERVICE
            )
            progress.add_metric(self._service, in_flight)
            yield progress
            yield GaugeMetricFamily("model_server_max_requests_in_flight", "How many of them there may be", limit)
        refused = CounterMetricFamily("model_server_refused", "Requests refused", labels=("reason",))
        for reason, count in self._refused.items():
            refused.add_metric((reason,), count)
        yield refused
        yield CounterMetricFamily(
            "model_server_read_pauses", "Pauses in reading a connection whose client sent requests ahead", self._pauses
        )
        yield CounterMetricFamily("model_server_rows", "Rows that the model has answered", self._rows)
        inference = HistogramMetricFamily(
            "model_server_inference_seconds", "Seconds in the model for the rows of one request"
        )
        self._inferences.add_to(inference)
        yield inference
        if self._receipt:
            yield GaugeMetricFamily("model_load_seconds", "Seconds that the load took", self._receipt.seconds)
            yield GaugeMetricFamily("model_load_attempts", "1, and 1 for each of its retries", self._receipt.attempts)

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format, those of the process and of the user's code too."""
        ours: bytes = prometheus_client.generate_latest(self._registry)
        theirs: bytes = prometheus_client.generate_latest()
        return ours + theirs
