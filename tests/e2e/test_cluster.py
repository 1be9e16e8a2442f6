"""Both images on a real cluster, deployed with the overlays to a temporary namespace."""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.cluster import DEPLOYMENT, Cluster
from tests.support.classifiers import classifier, save
from tests.support.fake_gcs import storage_client
from tests.support.manifests import Manifest, one, render
from tests.support.processes import ROOT, until

IRIS = "iris/1/model.onnx"
# It has the same shape as the iris model, so that one load works for both.
OTHER = "other/1/model.onnx"
OTHER_LABELS = {"a", "b", "c"}
MIN_PODS = 3
GROWN_PODS = 5

Deploy = Callable[..., list[Manifest]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A namespace, which is deleted with everything in it afterwards."""
    cluster = Cluster(os.environ.get("CONTEXT", ""), f"model-load-e2e-{secrets.token_hex(4)}")
    try:
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", cluster.namespace, "--ignore-not-found", "--timeout=600s")


@pytest.fixture(scope="module")
def deploy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Return a function that applies the Google Cloud Storage overlay with changed settings."""

    def manifests(settings: dict[str, str]) -> list[Manifest]:
        return render("gcs", tmp_path_factory.mktemp("overlay"), settings, cluster.namespace)

    first = manifests({})
    cluster.apply(one(first, "Namespace"))
    emulator = cluster.start_emulator(first)
    other = save(classifier(), tmp_path_factory.mktemp("other"), sorted(OTHER_LABELS))
    with cluster.uploading() as url:
        bucket = storage_client(url).create_bucket("models")
        shipped = (ROOT / "models" / "iris_svc.onnx", ROOT / "models" / "label.json")
        for blob, (model, labels) in {IRIS: shipped, OTHER: other}.items():
            bucket.blob(blob).upload_from_filename(model)
            bucket.blob(f"{Path(blob).parent}/label.json").upload_from_filename(labels)

    def with_changes(**changes: str) -> list[Manifest]:
        settings = {"GCS_BUCKET": "models", "GCS_MODEL_BLOB": IRIS, "STORAGE_EMULATOR_HOST": emulator, **changes}
        rendered = manifests(settings)
        cluster.apply(*rendered)
        return rendered

    return with_changes


@pytest.fixture
def iris(cluster: Cluster, deploy: Deploy) -> list[Manifest]:
    """The manifests for the iris model, once the minimum number of pods is ready."""
    manifests = deploy()
    cluster.until_rolled_out()
    until(lambda: len(ready(cluster)) >= MIN_PODS, 600)
    return manifests


def ready(cluster: Cluster) -> list[str]:
    """Return the names of the pods that are ready and not terminating."""
    return [
        pod["metadata"]["name"]
        for pod in cluster.pods()
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in pod["status"].get("conditions", [])
        )
    ]


def test_local_overlay_serves_iris(cluster: Cluster, tmp_path: Path) -> None:
    manifests = render("local", tmp_path, {}, cluster.namespace)
    cluster.apply(one(manifests, "Namespace"))
    cluster.apply(*manifests)
    cluster.until_rolled_out()
    assert_serves_iris(cluster, manifests)


def test_bucket_overlay_serves_iris(cluster: Cluster, iris: list[Manifest]) -> None:
    assert_serves_iris(cluster, iris)


def assert_serves_iris(cluster: Cluster, manifests: list[Manifest]) -> None:
    port = one(manifests, "Service")["spec"]["ports"][0]["port"]
    with cluster.forwarding("service/model-load-server", port) as url:
        answer = httpx.post(f"{url}/predict/label", json={"data": [[5.1, 3.5, 1.4, 0.2]]})
        assert (answer.status_code, answer.json()) == (200, {"prediction": "setosa"})
        assert httpx.get(f"{url}/health").json() == {"health": "ok"}
        assert httpx.get(f"{url}/label").json() == {"0": "setosa", "1": "versicolor", "2": "virginica"}


def test_switches_model_and_back_without_a_failed_request(
    cluster: Cluster, iris: list[Manifest], deploy: Deploy
) -> None:
    with cluster.load(iris) as stop:
        deploy(GCS_MODEL_BLOB=OTHER)
        cluster.until_rolled_out()
        cluster.kubectl("rollout", "undo", DEPLOYMENT)
        cluster.until_rolled_out()
        report = stop()
    assert report["failures"] == []
    assert "setosa" in report["answers"]
    assert OTHER_LABELS & set(report["answers"])


def test_old_pods_keep_serving_when_the_new_model_is_refused(
    cluster: Cluster, iris: list[Manifest], deploy: Deploy
) -> None:
    with cluster.load(iris) as stop:
        deploy(MODEL_SHA256="0" * 64)
        until(lambda: any("but MODEL_SHA256 is" in reason for reason in refusals(cluster)), 300)
        report = stop()
    assert report["failures"] == []
    assert set(report["answers"]) == {"setosa"}


def refusals(cluster: Cluster) -> list[str]:
    """Return the termination messages of failed loaders."""
    states: list[dict[str, Any]] = [
        state
        for pod in cluster.pods()
        for status in pod["status"].get("initContainerStatuses", [])
        for state in (status["state"], status["lastState"])
    ]
    return [state["terminated"].get("message", "") for state in states if "terminated" in state]


def test_deleted_pod_is_replaced_without_a_failed_request(cluster: Cluster, iris: list[Manifest]) -> None:
    deleted = ready(cluster)[0]
    with cluster.load(iris) as stop:
        cluster.kubectl("delete", "pod", deleted)
        until(lambda: len(set(ready(cluster)) - {deleted}) >= MIN_PODS, 600)
        report = stop()
    assert report["failures"] == []


def test_autoscaler_follows_the_load(cluster: Cluster, iris: list[Manifest]) -> None:
    until(lambda: "currentMetrics" in autoscaler(cluster)["status"], 300)  # without a metrics server, never
    with cluster.load(iris, threads=16, rows=20_000) as stop:
        until(lambda: autoscaler(cluster)["status"]["desiredReplicas"] >= GROWN_PODS, 900)
        report = stop()
    assert report["failures"] == []
    until(lambda: autoscaler(cluster)["status"]["currentReplicas"] == MIN_PODS, 1800)


def autoscaler(cluster: Cluster) -> Any:
    return cluster.get("horizontalpodautoscaler/model-load-server")
