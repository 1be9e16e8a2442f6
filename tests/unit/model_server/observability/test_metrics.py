"""The metrics in the Prometheus text format."""

import re
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from model_server.observability.metrics import UNAVAILABLE, Metrics, reason_of
from volume.receipt import FileRecord, Receipt

MODEL = {"sha256": "0" * 64, "source": "gs://b/m", "generation": "7"}
FILE = FileRecord(name="m", uri="gs://b/m", generation=7, size=1, sha256="0" * 64, crc32c="")
RECEIPT = Receipt(model=FILE, labels=FILE, started=datetime.now(UTC), seconds=1.25, attempts=3, loader_version="0.1.0")


def samples(metrics: Metrics, name: str) -> dict[str, float]:
    """Return the values of one metric, by its labels other than those for the service."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {
        ",".join(value for key, value in one.labels.items() if not key.startswith("service")): one.value
        for one in found
    }


def test_durations_are_counted_in_buckets() -> None:
    metrics = Metrics("name", "version")
    for status, seconds in ((200, 0.001), (200, 0.0011), (204, 7), (200, 70), (400, 0.0002)):
        metrics.observe("/predict", status, seconds)
    buckets = samples(metrics, "bentoml_service_request_duration_seconds_bucket")
    assert [buckets[f"/predict,{bound},2xx"] for bound in ("0.0005", "0.001", "0.0025", "5.0", "10.0", "+Inf")] == [
        0, 1, 2, 2, 3, 4,
    ]  # fmt: skip
    assert buckets["/predict,0.0001,4xx"] == 0
    assert buckets["/predict,0.00025,4xx"] == 1
    assert samples(metrics, "bentoml_service_request_duration_seconds_sum")["/predict,2xx"] == 77.0021
    assert samples(metrics, "bentoml_service_request_total") == {
        "/predict,200": 3,
        "/predict,204": 1,
        "/predict,400": 1,
    }


def test_every_reason_is_present_from_the_start() -> None:
    metrics = Metrics("name", "version")
    reasons = {
        "busy", "invalid", "media_type", "method", "not_found", "timeout", "too_large", "unavailable",
        "unread",
    }  # fmt: skip
    assert samples(metrics, "model_server_refused_total") == dict.fromkeys(reasons, 0)
    for status in (400, 404, 405, 408, 413, 415, 431, 503, 504):
        metrics.observe("other", status, 0, reason_of(status))
    metrics.observe("/readyz", 503, 0, UNAVAILABLE)
    metrics.observe_unread()
    for status in (200, 304, 499, 500):
        metrics.observe("other", status, 0, reason_of(status))
    counts = dict.fromkeys(reasons, 1) | {"timeout": 2, "too_large": 2}
    assert samples(metrics, "model_server_refused_total") == counts


def test_inferences() -> None:
    metrics = Metrics("name", "version")
    metrics.observe_inference(1, 0.000012)
    metrics.observe_inference(1000, 0.003)
    assert samples(metrics, "model_server_rows_total") == {"": 1001}
    buckets = samples(metrics, "model_server_inference_seconds_bucket")
    assert [buckets[bound] for bound in ("1e-05", "2.5e-05", "0.0025", "0.005", "+Inf")] == [0, 1, 1, 2, 2]


def test_load_and_process_metrics() -> None:
    metrics = Metrics("name", "version")
    metrics.show_model(MODEL, RECEIPT)
    metrics.in_flight = lambda: (3, 128)
    assert samples(metrics, "model_load_seconds") == {"": 1.25}
    assert samples(metrics, "model_load_attempts") == {"": 3}
    assert samples(metrics, "bentoml_service_request_in_progress") == {"": 3}
    assert samples(metrics, "model_server_max_requests_in_flight") == {"": 128}
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert samples(metrics, name)[""] > 0
    assert not re.search("^model_load", Metrics("name", "version").exposition().decode(), re.MULTILINE)
