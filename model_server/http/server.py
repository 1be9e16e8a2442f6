"""What serves predictions, put together: the endpoints, the front, the connections and what they share."""

from collections.abc import Collection, Iterable
from typing import Any

from starlette.types import ASGIApp

from model_server.http.admission import Admission
from model_server.http.asgi import AsgiEndpoint, Front
from model_server.http.connections import Connections
from model_server.http.documents import add_predictions
from model_server.http.endpoint import Endpoint, RowsMethod, Shared
from model_server.http.pages import Pages
from model_server.model.model import Model
from model_server.observability.log import Log
from model_server.observability.metrics import Metrics
from model_server.observability.observer import Observer
from model_server.prediction.runner import INLINE_SECONDS, Runner
from model_server.settings import Settings, processors
from volume.log import LogLevel

_WAIT_SECONDS = 0.04  # in which all in flight are answered at best, having one row each
_OWN_SECONDS = 0.0001  # what a request takes besides the inference
_MOST_IN_FLIGHT = 128
_FEWEST_IN_FLIGHT = 8
_LARGE_BODIES = 8  # as many of the largest may be held at once


class PredictionServer:
    """Answers the methods of a service that take rows, and stands in front of the application that has the rest.

    Args:
        name: the service's name.
        version: its version.
        settings: how large and how long requests may be, and how many.
        log: gets a line for each error.
        shows_metrics: whether `/metrics` is there.

    Attributes:
        observer: names, counts and logs requests.
        pages: routes that the application needs.
        connections: what the connections of a server share.
    """

    def __init__(self, name: str, version: str, settings: Settings, log: Log, *, shows_metrics: bool) -> None:
        self._name = name
        self._settings = settings
        self._log = log
        self._metrics = Metrics(name, version)
        admission = Admission(_FEWEST_IN_FLIGHT, _LARGE_BODIES * settings.max_body_bytes)
        self._metrics.in_flight = lambda: (admission.in_flight, admission.max_in_flight)
        self._endpoints: dict[str, Endpoint] = {}
        self._targets: dict[bytes, Endpoint] = {}
        self._is_direct = False
        self.observer = Observer(self._metrics, log, settings.access_log_sample_rate)
        self._shared = Shared(
            Runner(max(1, processors() // settings.intra_op_num_threads)),
            admission,
            self.observer,
            settings.max_body_bytes,
            settings.request_timeout_seconds,
            _untraced,
        )
        self.pages = Pages(name, self._metrics if shows_metrics else None)
        self.connections = Connections(self._targets, self.observer, admission, settings)

    def stand_before(self, app: ASGIApp, probes: Collection[str], *, is_passed: bool) -> ASGIApp:
        """Return the application to serve.

        Args:
            app: what answers everything but predictions.
            probes: paths that are answered however many requests are in flight.
            is_passed: whether predictions have to go through that application too.
        """
        front = Front(app, self._endpoints, self._shared, probes, is_passed=is_passed)
        if not self._settings.otel_exporter_otlp_endpoint:
            self._is_direct = not is_passed
            return front
        from model_server.observability.tracing import Tracing  # noqa: PLC0415 (its imports take 0.2 s)

        tracing = Tracing(self._name, self.observer, probes)
        self._shared.step = tracing.step
        return tracing.around(front)

    def serve(
        self, model: Model, methods: Iterable[RowsMethod], document: dict[str, Any], routes: Iterable[str]
    ) -> dict[str, ASGIApp]:
        """Begin to answer.

        Args:
            model: whose rows the methods take.
            methods: the methods of the service that take rows.
            document: the OpenAPI document of everything else; it is completed.
            routes: other paths that are routes.

        Returns:
            The application for each method's path.
        """
        self._log.model = model.info["sha256"]
        self._metrics.show_model(model.info, model.receipt)
        self._log.say(LogLevel.INFO, "serving", **{key: text or None for key, text in model.info.items()})
        self._shared.admission.max_in_flight = self._settings.max_requests_in_flight or most_in_flight(
            model, self._shared.runner.threads
        )
        self._endpoints.update({method.route: Endpoint(method, model, self._shared) for method in methods})
        if self._is_direct:
            self._targets.update({path.encode(): endpoint for path, endpoint in self._endpoints.items()})
        add_predictions(document, (endpoint.method for endpoint in self._endpoints.values()), model)
        self.observer.routes = frozenset((*document["paths"], *routes))
        self.pages.show(model, document)
        return {path: AsgiEndpoint(endpoint) for path, endpoint in self._endpoints.items()}


def most_in_flight(model: Model, threads: int) -> int:
    """Return how many requests of one row are answered in the time that the last of them may wait, within bounds."""
    at_once = threads if model.seconds(1) > INLINE_SECONDS else 1
    answered = _WAIT_SECONDS * at_once / (model.sample_seconds + _OWN_SECONDS)
    return max(_FEWEST_IN_FLIGHT, 2 * threads, min(_MOST_IN_FLIGHT, round(answered)))


def _untraced(_name: str, function: Any) -> Any:  # noqa: ANN401 (any function)
    return function
