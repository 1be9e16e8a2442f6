"""Assembly of the prediction server from its endpoints, its outermost application and its connections."""

from collections.abc import Collection, Iterable
from typing import Any

from starlette.types import ASGIApp

from model_server.http.admission import Admission
from model_server.http.asgi import AsgiEndpoint, OutermostApp
from model_server.http.connections import Connections
from model_server.http.documents import add_predictions
from model_server.http.endpoint import Endpoint, Shared
from model_server.http.inference import INFER, ROOT, InferenceRoutes
from model_server.http.inference_documents import describe_inference
from model_server.http.methods import MethodCall, OutputCalls, RowsMethod
from model_server.http.pages import Pages
from model_server.http.prediction_log import PredictionLog
from model_server.model.model import Model
from model_server.model.tasks import Task
from model_server.observability.log import Log
from model_server.observability.metrics import Metrics
from model_server.observability.observer import Observer
from model_server.observability.predictions import Predictions
from model_server.prediction.runner import INLINE_SECONDS, Runner
from model_server.protocols.json_protocol import JsonProtocol
from model_server.protocols.open_inference import LABEL, OpenInference
from model_server.settings import Settings, processors
from volume.log import LogLevel

_WAIT_SECONDS = 0.04  # target wait for the last of the requests in flight, if each has one row
_OVERHEAD_SECONDS = 0.0001  # time of a request apart from the inference
_MAX_IN_FLIGHT = 128
_MIN_IN_FLIGHT = 8
_LARGE_BODIES = 8  # bodies of the maximum size that may be in memory at once


class PredictionServer:
    """Answers the service's methods that take rows, in front of the application that answers everything else.

    Args:
        name: the service's name.
        version: the service's version.
        settings: the limits on requests: size, duration and number.
        log: receives a line for each error.
        shows_metrics: whether to serve `/metrics`.
        prefix: the prefix of the paths of all routes.

    Attributes:
        observer: identifies, counts and logs requests.
        pages: the pages, with additional routes that the application must include.
        inference: the Open Inference Protocol, with more such routes.
        connections: the state that all connections share.
    """

    def __init__(  # noqa: PLR0913 (each is used once)
        self, name: str, version: str, settings: Settings, log: Log, *, shows_metrics: bool, prefix: str = ""
    ) -> None:
        self._name = name
        self._prefix = prefix
        self._settings = settings
        self._log = log
        self._metrics = Metrics(name, version)
        admission = Admission(_MIN_IN_FLIGHT, _LARGE_BODIES * settings.max_body_bytes)
        self._metrics.in_flight = lambda: (admission.in_flight, admission.max_in_flight)
        self._endpoints: dict[str, Endpoint] = {}
        self._targets: dict[bytes, Endpoint] = {}
        self._probes: set[str] = set()
        self._is_direct = False
        self.observer = Observer(self._metrics, log, settings.access_log_sample_rate)
        self._shared = Shared(
            Runner(max(1, processors() // settings.intra_op_num_threads)),
            admission,
            self.observer,
            settings.max_body_bytes,
            settings.request_timeout_seconds,
        )
        if settings.prediction_log_sample_rate:
            self._shared.prediction_log = PredictionLog(log, settings.prediction_log_sample_rate)
            self._metrics.register(self._shared.prediction_log)
        self.pages = Pages(name, self._metrics if shows_metrics else None)
        self.inference = InferenceRoutes(name, version)
        self.observer.error_fields[f"{prefix}{ROOT}"] = OpenInference.error_field
        self.connections = Connections(self._targets, self.observer, admission, settings)

    def wrap(self, app: ASGIApp, probes: Collection[str], *, via_app: bool) -> ASGIApp:
        """Return the application to serve.

        Args:
            app: the application that answers everything except predictions.
            probes: paths that are answered regardless of the number of requests in flight.
            via_app: whether predictions pass through that application too.
        """
        self._probes.update(probes)
        front = OutermostApp(app, self._endpoints, self._shared, self._probes, via_app=via_app)
        if not self._settings.otel_exporter_otlp_endpoint:
            self._is_direct = not via_app
            return front
        from model_server.observability.tracing import Tracing  # noqa: PLC0415 (its imports take 0.2 s)

        tracing = Tracing(self._name, self.observer, probes)
        self._shared.step = tracing.step
        self._shared.shared_step = tracing.shared_step
        self._shared.span = tracing.span
        return tracing.wrap(front)

    def serve(
        self,
        model: Model,
        methods: Iterable[RowsMethod],
        document: dict[str, Any],
        routes: Iterable[str],
        for_classes: Collection[str] = (),
    ) -> dict[str, ASGIApp]:
        """Begin to answer requests.

        Args:
            model: the model whose rows the methods take.
            methods: the service's methods that take rows.
            document: the OpenAPI document of the other routes; the methods are added to it.
            routes: the paths of the other routes.
            for_classes: paths that are refused, and left out of the document, if the model has no classes.

        Returns:
            An application for each method, by path.
        """
        self._log.model = model.info["sha256"]
        self._metrics.show_model(model.info, model.receipt)
        self._metrics.show_batching(model.batching.code, model.batching.max_rows)
        about = {key: text or None for key, text in model.info.items()}
        self._log.write(LogLevel.INFO, "serving", **about, batching=model.batching.reason)
        self._shared.admission.max_in_flight = self._settings.max_requests_in_flight or default_max_in_flight(
            model, self._shared.runner.threads
        )
        if self._settings.prediction_metrics:
            names = tuple(model.labels.values())
            is_multilabel = model.task is Task.MULTILABEL
            self._shared.predictions = Predictions(model.info["sha256"], names, is_multilabel=is_multilabel)
            self._metrics.register(self._shared.predictions)
        if model.task is Task.VALUES:
            self._shared.refused.update(for_classes)
        served = [method for method in methods if method.route not in self._shared.refused]
        self._endpoints.update(
            {
                method.route: Endpoint(
                    method.route,
                    MethodCall(method),
                    JsonProtocol(model.spec, method.parameter, method.parameters),
                    model,
                    self._shared,
                )
                for method in served
            }
        )
        applications: dict[str, ASGIApp] = {path: AsgiEndpoint(endpoint) for path, endpoint in self._endpoints.items()}
        for path in self._shared.refused:
            document["paths"].pop(path, None)
        add_predictions(document, served, model)
        paths = self._serve_inference(model, served, document)
        if self._is_direct:
            self._targets.update({path.encode(): endpoint for path, endpoint in self._endpoints.items()})
        self.observer.routes = {path: path for path in (*document["paths"], *routes)} | paths
        self.pages.show(model, document)
        return applications

    def _serve_inference(self, model: Model, methods: Iterable[RowsMethod], document: dict[str, Any]) -> dict[str, str]:
        """Begin to answer requests of the Open Inference Protocol, and return their routes by path.

        `predict` and `predict_label` are its outputs, unless they have parameters that it cannot give them.
        """
        by_name = {method.name: method for method in methods if not method.requires_parameters}
        predict = by_name.get("predict")
        if predict is None:
            return {}
        label = by_name.get("predict_label")
        protocol = OpenInference(self._settings.model_name or model.short_name, model, has_label=label is not None)
        calls = {protocol.predictions: predict, **({LABEL: label} if label else {})}
        output_calls = OutputCalls(calls, self._shared.runner.call)
        endpoint = Endpoint(self._prefix + INFER, output_calls, protocol, model, self._shared)
        self.inference.show(protocol, endpoint)
        document["paths"] |= {
            self._prefix + path: operations for path, operations in describe_inference(protocol, model.inputs).items()
        }
        routes = {self._prefix + path: self._prefix + route for path, route in self.inference.paths().items()}
        infer = dict.fromkeys((path for path in routes if path.endswith("/infer")), endpoint)
        self._endpoints.update(infer)
        self._probes.update(path for path in routes if path.endswith("/ready"))
        return routes | dict.fromkeys(infer, endpoint.route)


def default_max_in_flight(model: Model, threads: int) -> int:
    """Return how many one-row requests the server can answer within 40 ms, between a minimum and a maximum."""
    at_once = threads if model.estimate_latency(1) > INLINE_SECONDS else 1
    answered = _WAIT_SECONDS * at_once / (model.sample_seconds + _OVERHEAD_SECONDS)
    return max(_MIN_IN_FLIGHT, 2 * threads, min(_MAX_IN_FLIGHT, round(answered)))
