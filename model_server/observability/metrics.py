"""The service's metrics; those for requests have the names of BentoML's own metrics."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import accumulate

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from volume.receipt import Receipt

_SERVICE = ("service_name", "service_version")
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 1024, 8192)
_INFERENCE_BUCKETS = (0.00001, 0.000025, 0.00005, *_BUCKETS)

UNAVAILABLE = "unavailable"  # the server is stopping, or cannot answer any request
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
    """Return the refusal reason for a status; empty for a request that was not refused."""
    return _REASONS.get(status, "")


class _Histogram:
    """The number of observed values in each bucket, and their sum."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._buckets, value)] += 1
        self.sum += value

    def add(self, other: "_Histogram") -> None:
        self._counts = [sum(pair) for pair in zip(self._counts, other._counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        return sum(self._counts)

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...] = ()) -> None:
        bounds = (*map(str, self._buckets), "+Inf")
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self.sum)


class Metrics(Collector):
    """Counts and times requests by route and status. For use by one thread only: the counters have no lock.

    BentoML's own middleware labels requests by their raw path, so any client could grow its memory without bound.

    Args:
        service_name: the value of BentoML's label `service_name`.
        service_version: the value of BentoML's label `service_version`.

    Attributes:
        in_flight: returns the number of requests in flight, and the maximum.
    """

    in_flight: Callable[[], tuple[int, int]] | None = None

    def __init__(self, service_name: str, service_version: str) -> None:
        self._service = (service_name, service_version)
        self._receipt: Receipt | None = None
        self._batching: tuple[str, int] | None = None
        self._requests: dict[tuple[str, int], _Histogram] = {}
        self._refused = Counter(dict.fromkeys((*_REASONS.values(), UNAVAILABLE, UNREAD), 0))
        self._pauses = 0
        self._rows = _Histogram(_ROWS_BUCKETS)
        self._inferences = _Histogram(_INFERENCE_BUCKETS)
        self._registry = prometheus_client.CollectorRegistry()
        self._model = prometheus_client.Info("model", "The model that is served", registry=self._registry)
        self._registry.register(self)

    def register(self, collector: Collector) -> None:
        """Show the metrics of a collector too."""
        self._registry.register(collector)

    def show_model(self, model: Mapping[str, str], receipt: Receipt | None) -> None:
        """Set the model that is served, and the receipt of its load, if there is one."""
        self._model.info(dict(model))
        self._receipt = receipt

    def observe(self, endpoint: str, status: int, seconds: float, reason: str = "") -> None:
        """Count one answered request.

        Args:
            endpoint: the route of the request, never its raw path.
            status: HTTP status code of the answer.
            seconds: time from request to answer.
            reason: the refusal reason, from `reason_of` or `UNAVAILABLE`; empty if the request was not refused.
        """
        histogram = self._requests.get((endpoint, status))
        if histogram is None:
            histogram = self._requests[endpoint, status] = _Histogram(_BUCKETS)
        histogram.observe(seconds)
        if reason:
            self._refused[reason] += 1

    def observe_unread(self) -> None:
        """Count a connection that was aborted because its client did not read its answers."""
        self._refused[UNREAD] += 1

    def observe_read_pause(self) -> None:
        """Count a pause in reading from a connection whose client sends requests ahead of the answers."""
        self._pauses += 1

    def show_batching(self, code: str, max_rows: int) -> None:
        """Show how many rows of several requests are answered together, and why."""
        self._batching = (code, max_rows)

    def observe_inference(self, rows: int, seconds: float) -> None:
        """Count one inference: how many rows it answered, and in how many seconds."""
        self._rows.observe(rows)
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
            yield GaugeMetricFamily(
                "model_server_max_requests_in_flight", "Maximum number of requests in progress", limit
            )
        refused = CounterMetricFamily("model_server_refused", "Requests refused", labels=("reason",))
        for reason, count in self._refused.items():
            refused.add_metric((reason,), count)
        yield refused
        yield CounterMetricFamily(
            "model_server_read_pauses", "Pauses in reading a connection whose client sent requests ahead", self._pauses
        )
        yield CounterMetricFamily("model_server_rows", "Rows that the model has answered", self._rows.sum)
        rows = HistogramMetricFamily("model_server_inference_rows", "Rows of one inference")
        self._rows.add_to(rows)
        yield rows
        inference = HistogramMetricFamily("model_server_inference_seconds", "Seconds of one inference")
        self._inferences.add_to(inference)
        yield inference
        if self._batching:
            code, most = self._batching
            batching = GaugeMetricFamily(
                "model_server_max_batch_rows",
                "Maximum number of rows of several requests answered together; 1 if each request is answered alone",
                labels=("reason",),
            )
            batching.add_metric((code,), most)
            yield batching
        if self._receipt:
            yield GaugeMetricFamily("model_load_seconds", "Duration of the load in seconds", self._receipt.seconds)
            yield GaugeMetricFamily("model_load_attempts", "1, plus the retries of the load", self._receipt.attempts)

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format, including those of the process and the user's code."""
        own: bytes = prometheus_client.generate_latest(self._registry)
        default: bytes = prometheus_client.generate_latest()
        return own + default
