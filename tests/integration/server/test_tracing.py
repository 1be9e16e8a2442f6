"""Spans, as received by a collector."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.processes import (
    IRIS,
    ONE_PROCESS,
    ROOT,
    events,
    in_new_interpreter,
    interpreter,
    service_environment,
    serving,
    until,
)
from tests.support.wire import answer, connect, request

TRACE, PARENT = "a1" * 16, "b2" * 8
SECRET = "not-for-other-eyes"  # noqa: S105 (it opens nothing)


@dataclass
class Collector:
    """An OTLP collector.

    Attributes:
        url: the URL that it listens on.
        received: the decoded requests.
    """

    url: str
    received: list[ExportTraceServiceRequest] = field(default_factory=list)

    def spans(self) -> list[Span]:
        """Return all spans received."""
        resources = [resource for one in self.received for resource in one.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    def services(self) -> set[str]:
        """Return the names of the services that sent the spans."""
        resources = [resource.resource for one in self.received for resource in one.resource_spans]
        return {values(resource.attributes)["service.name"] for resource in resources}


def values(attributes: Iterator[KeyValue]) -> dict[str, str]:
    return {
        one.key: one.value.string_value if one.value.HasField("string_value") else str(one.value.int_value)
        for one in attributes
    }


@contextmanager
def collecting(up: threading.Event | None = None) -> Iterator[Collector]:
    """Run a collector. If an event is given, its port refuses connections until the event is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.received.append(ExportTraceServiceRequest.FromString(content))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False) as listener:
        listener.server_bind()

        def serve() -> None:
            if up:
                up.wait()
            listener.server_activate()
            listener.serve_forever()

        collector = Collector(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield collector
        finally:
            if up:
                up.set()
            listener.shutdown()
            thread.join()


def test_a_collector_gets_the_spans_of_each_request(tmp_path: Path) -> None:
    parent = f"traceparent: 00-{TRACE}-{PARENT}-01\r\nX-Secret: {SECRET}\r\n".encode()
    bodies = {"one": b'{"data": [[5.1, 3.5, 1.4, 0.2]]}', "bad": b'{"data": [[5.1, 3.5, 1.4, "%b"]]}' % SECRET.encode()}
    bodies["many"] = b'{"data": [' + b"[5.1, 3.5, 1.4, 0.2], " * 4999 + b"[5.1, 3.5, 1.4, 0.2]]}"  # in a thread
    with collecting() as collector:
        # With this delay, no spans are sent before the server stops.
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with serving(tmp_path, {**IRIS, **environment}, command=in_new_interpreter(ONE_PROCESS)) as server:
            for name, body in bodies.items():
                with connect(server) as connection:
                    connection.sendall(request(body, parent if name == "one" else b"", b"/predict?" + SECRET.encode()))
                    answer(connection)
            assert server.client.get(f"/{SECRET}").status_code == 404
            assert server.client.get("/metadata").status_code == 200
            assert collector.received == []
        spans = collector.spans()
        assert SECRET.encode() not in b"".join(one.SerializeToString() for one in collector.received)
    roots = sorted(
        (span for span in spans if span.kind == Span.SPAN_KIND_SERVER), key=lambda span: span.start_time_unix_nano
    )
    assert [(span.name, values(span.attributes)["http.response.status_code"]) for span in roots] == [
        ("POST /predict", "200"),
        ("POST /predict", "400"),
        ("POST /predict", "200"),
        ("GET", "404"),
        ("GET /metadata", "200"),
    ]
    assert values(roots[0].attributes) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": "200",
    }
    assert (roots[0].trace_id.hex(), roots[0].parent_span_id.hex()) == (TRACE, PARENT)
    assert len({span.trace_id for span in roots}) == 5

    def steps(root: Span) -> list[tuple[str, bool]]:
        inside = [span for span in spans if span.parent_span_id == root.span_id]
        assert {span.trace_id for span in inside} <= {root.trace_id}
        for span in inside:
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= root.end_time_unix_nano
        ordered = sorted(inside, key=lambda span: span.start_time_unix_nano)
        return [(span.name, span.status.code == Status.STATUS_CODE_ERROR) for span in ordered]

    predicted = [("parse", False), ("inference", False), ("encode", False)]
    assert list(map(steps, roots)) == [predicted, [("parse", True)], predicted, [], []]
    assert collector.services() == {"model_load_server"}


def test_an_unreachable_collector_is_logged_once_and_stops_nothing(tmp_path: Path) -> None:
    up = threading.Event()
    environment = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_SERVICE_NAME": "iris"}
    with collecting(up) as collector:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        with serving(tmp_path, {**IRIS, **environment}, command=ONE_PROCESS) as server:

            def states() -> list[str]:
                server.predict([[5.1, 3.5, 1.4, 0.2]])
                return [line["state"] for line in events(server.log) if line["event"] == "tracing"]

            until(lambda: states() == ["lost"], 30)
            up.set()
            until(lambda: states()[:2] == ["lost", "sent"], 30)
        assert collector.services() == {"iris"}
    assert {line["event"] for line in events(server.log)} == {"message", "serving", "tracing"}


def test_a_silent_collector_does_not_delay_the_shutdown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with serving(tmp_path, {**IRIS, **environment}, command=ONE_PROCESS) as server:
            server.predict([[5.1, 3.5, 1.4, 0.2]])
            server.process.terminate()
            assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize(("endpoint", "imported"), [("", "False"), ("http://127.0.0.1:9", "True")])
def test_the_exporter_is_imported_only_if_tracing_is_on(tmp_path: Path, endpoint: str, imported: str) -> None:
    program = "import sys, service; service.ModelLoadServer.to_asgi(); print('requests' in sys.modules)"
    run = subprocess.run(
        [interpreter("service"), "-c", program],
        cwd=ROOT,
        env={**service_environment(tmp_path, IRIS), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines()[-1] == imported
