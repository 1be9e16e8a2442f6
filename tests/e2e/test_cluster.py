"""Both images on a real cluster, deployed with the overlays to a temporary namespace."""

import dataclasses
import os
import secrets
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.cluster import DEPLOYMENT, Cluster
from tests.support.classifiers import classifier, save
from tests.support.documents import blocks
from tests.support.fake_gcs import storage_client
from tests.support.manifests import Manifest, all_of, copy, manifests, namespace, one, render
from tests.support.processes import ROOT, until

# The versions of the canary overlay. Both models have the same shape, so that one load works for both.
IRIS = "iris/1/model.onnx"
OTHER = "iris/2/model.onnx"
OTHER_LABELS = {"a", "b", "c"}
MIN_PODS = 3
GROWN_PODS = 5
MAX_PODS = 10
# Ten pods fit on two processors, next to the system's own.
CPU = "100m"
RETRIES = 20
# Ends the server as a crash would. The first process of a process namespace ignores SIGKILL from inside, so the
# containers of its pod must share one.
KILL = r"""
import os, pathlib, signal
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"-m\0model_server" in path.read_bytes():
        os.kill(int(path.parent.name), signal.SIGKILL)
"""

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
    """Return a function that applies the Google Cloud Storage overlay with changed settings.

    Unless a test is about the autoscaler, it keeps the minimum number of pods.
    """

    def overlay(settings: dict[str, str]) -> list[Manifest]:
        return lighter(render("gcs", tmp_path_factory.mktemp("overlay"), settings, cluster.namespace), cluster)

    first = overlay({})
    cluster.apply(one(first, "Namespace"))
    emulator = cluster.start_emulator(first)
    cluster.allow_emulator(cluster.namespace)
    other = save(classifier(), tmp_path_factory.mktemp("other"), sorted(OTHER_LABELS))
    with cluster.uploading() as url:
        bucket = storage_client(url).create_bucket("models")
        shipped = (ROOT / "models" / "iris_svc.onnx", ROOT / "models" / "label.json")
        for blob, (model, labels) in {IRIS: shipped, OTHER: other}.items():
            bucket.blob(blob).upload_from_filename(model)
            bucket.blob(f"{Path(blob).parent}/label.json").upload_from_filename(labels)

    def with_changes(*, shared_processes: bool = False, max_pods: int = MIN_PODS, **changes: str) -> list[Manifest]:
        settings = {"GCS_BUCKET": "models", "GCS_MODEL_BLOB": IRIS, "STORAGE_EMULATOR_HOST": emulator, **changes}
        rendered = overlay(settings)
        one(rendered, "Deployment")["spec"]["template"]["spec"]["shareProcessNamespace"] = shared_processes
        one(rendered, "HorizontalPodAutoscaler")["spec"]["maxReplicas"] = max_pods
        cluster.apply(*rendered)
        return rendered

    return with_changes


def lighter(rendered: list[Manifest], cluster: Cluster) -> list[Manifest]:
    """Request less CPU, and label the pods as those of this run."""
    for deployment in all_of(rendered, "Deployment"):
        template = deployment["spec"]["template"]
        [server] = template["spec"]["containers"]
        server["resources"]["requests"]["cpu"] = CPU
        template["metadata"]["labels"]["e2e"] = cluster.namespace
    return rendered


@pytest.fixture
def iris(cluster: Cluster, deploy: Deploy) -> list[Manifest]:
    """The manifests for the iris model, once the minimum number of pods is ready."""
    rendered = deploy()
    cluster.until_rolled_out()
    until(lambda: len(ready(cluster)) >= MIN_PODS, 600)
    return rendered


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
    rendered = render("local", tmp_path, {}, cluster.namespace)
    cluster.apply(one(rendered, "Namespace"))
    cluster.apply(*rendered)
    cluster.until_rolled_out()
    assert_serves_iris(cluster, rendered)


def test_namespace_admits_only_restricted_pods(cluster: Cluster, iris: list[Manifest]) -> None:
    [server] = one(iris, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert 'violates PodSecurity "restricted' in cluster.run_as_root(server["image"])
    assert len(ready(cluster)) >= MIN_PODS


def test_bucket_overlay_serves_iris(cluster: Cluster, iris: list[Manifest]) -> None:
    assert_serves_iris(cluster, iris)


def assert_serves_iris(cluster: Cluster, rendered: list[Manifest]) -> None:
    port = one(rendered, "Service")["spec"]["ports"][0]["port"]
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
        until(lambda: "but MODEL_SHA256 is" in shown(cluster), 300)
        until(lambda: condition(cluster, "Progressing")["reason"] == "ProgressDeadlineExceeded", 400)
        report = stop()
    assert report["failures"] == []
    assert set(report["answers"]) == {"setosa"}


def shown(cluster: Cluster) -> str:
    """Return the output of the documented command that follows a rollout, at this moment."""
    commands = [command for block in blocks("console cluster") for command, _ in block.commands]
    [command] = {command for command in commands if "custom-columns" in command}
    _, _, _, *arguments = shlex.split(command.replace("\\\n", ""))
    arguments.remove("--watch")
    return cluster.kubectl(*arguments)


def condition(cluster: Cluster, name: str) -> Any:
    [found] = [entry for entry in cluster.get(DEPLOYMENT)["status"]["conditions"] if entry["type"] == name]
    return found


def test_deleted_pod_is_replaced_without_a_failed_request(cluster: Cluster, iris: list[Manifest]) -> None:
    deleted = ready(cluster)[0]
    with cluster.load(iris) as stop:
        cluster.kubectl("delete", "pod", deleted)
        until(lambda: len(set(ready(cluster)) - {deleted}) >= MIN_PODS, 600)
        report = stop()
    assert report["failures"] == []


def test_node_is_drained_without_a_failed_request(cluster: Cluster, iris: list[Manifest]) -> None:
    """Only this run's server pods are evicted: neither those of others nor the load."""
    usable = [node for node in cluster.get("nodes") if not node["spec"].get("taints")]
    if len(usable) < 2:
        pytest.skip("the cluster has only one node")
    names = ready(cluster)
    nodes = Counter(pod["spec"]["nodeName"] for pod in cluster.pods() if pod["metadata"]["name"] in names)
    [(node, _)] = nodes.most_common(1)
    selector = f"--pod-selector=e2e={cluster.namespace}"
    try:
        with cluster.load(iris) as stop:
            cluster.kubectl("drain", node, selector, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=600s")
            until(lambda: len(ready(cluster)) >= MIN_PODS, 600)
            report = stop()
    finally:
        cluster.kubectl("uncordon", node)
    assert report["failures"] == []
    assert report["answers"].keys() == {"setosa"}


def test_clients_of_a_killed_server_fail_until_they_retry(cluster: Cluster, deploy: Deploy) -> None:
    """Requests fail until the endpoint is gone, and only to connect or to read; a retry reaches another pod."""
    rendered = deploy(shared_processes=True)
    cluster.until_rolled_out()
    until(lambda: len(ready(cluster)) >= MIN_PODS, 600)
    first, second, *_ = ready(cluster)
    without, with_retries = (killed_under_load(cluster, rendered, *case) for case in ((first, 0), (second, RETRIES)))
    print(f"without retries: {without}\nwith {RETRIES} retries: {with_retries}")
    assert without["failures"]
    assert all(failure.startswith(("Connect", "Read", "RemoteProtocolError")) for failure in without["failures"])
    assert len(without["failures"]) < sum(without["answers"].values()) / 10
    assert with_retries["failures"] == []
    assert with_retries["retries"] > 0


def killed_under_load(cluster: Cluster, rendered: list[Manifest], pod: str, retries: int) -> Any:
    """Kill the server of a pod under load, wait until it is ready again, and return the report of the load."""
    with cluster.load(rendered, retries=retries) as stop:
        # The command ends with the container, and so with an error.
        cluster.kubectl("exec", pod, "--container=model-server", "--", "python", "-c", KILL, check=False)
        until(lambda: restarts(cluster, pod) == 1, 300)
        until(lambda: pod in ready(cluster), 300)
        return stop()


def restarts(cluster: Cluster, name: str) -> int:
    [status] = cluster.get("pod", name)["status"]["containerStatuses"]
    return int(status["restartCount"])


@pytest.fixture
def canary(cluster: Cluster) -> Iterator[Cluster]:
    """The canary's namespace, which is deleted afterwards."""
    canary = dataclasses.replace(cluster, namespace=f"{cluster.namespace}-canary")
    try:
        yield canary
    finally:
        canary.kubectl("delete", "namespace", canary.namespace, "--ignore-not-found", "--timeout=600s")


def test_canary_serves_the_other_version(
    cluster: Cluster, canary: Cluster, iris: list[Manifest], tmp_path: Path
) -> None:
    settings = one(iris, "ConfigMap")["data"]
    copied = copy(tmp_path)
    path = copied / "overlays/gcs/settings.env"
    path.write_text(path.read_text().replace("HOST=", f"HOST={settings['STORAGE_EMULATOR_HOST']}"))
    rendered = lighter(manifests(copied / "overlays/canary"), cluster)
    gateway = bool(cluster.kubectl("get", "crd", "httproutes.gateway.networking.k8s.io", "--ignore-not-found"))
    for manifest in rendered:
        moved(manifest, {"model-load": cluster.namespace, "model-load-canary": canary.namespace})
    for place in (canary, cluster):
        own = [manifest for manifest in rendered if namespace(manifest) == place.namespace]
        if not gateway:
            own = [manifest for manifest in own if "gateway" not in manifest["apiVersion"]]
        place.apply(one(own, "Namespace"))
        place.allow_emulator(cluster.namespace)
        place.apply(*own)
    labels = {}
    for place in (canary, cluster):
        place.until_rolled_out()
        with place.forwarding("service/model-load-server", 80) as url:
            labels[place] = {*httpx.get(f"{url}/label").json().values()}
    assert labels == {canary: OTHER_LABELS, cluster: {"setosa", "versicolor", "virginica"}}


def moved(manifest: Any, namespaces: dict[str, str]) -> None:
    """Replace the namespaces in a manifest."""
    if isinstance(manifest, list):
        for entry in manifest:
            moved(entry, namespaces)
    elif isinstance(manifest, dict):
        if manifest.get("kind") == "Namespace":
            manifest["metadata"]["name"] = namespaces[manifest["metadata"]["name"]]
        for key, value in manifest.items():
            if key == "namespace":
                manifest[key] = namespaces[value]
            else:
                moved(value, namespaces)


def test_autoscaler_follows_the_load(cluster: Cluster, iris: list[Manifest], deploy: Deploy) -> None:
    deploy(max_pods=MAX_PODS)
    until(lambda: "currentMetrics" in autoscaler(cluster)["status"], 300)  # without a metrics server, never
    with cluster.load(iris, threads=16, rows=20_000) as stop:
        until(lambda: autoscaler(cluster)["status"]["desiredReplicas"] >= GROWN_PODS, 900)
        report = stop()
    assert report["failures"] == []
    until(lambda: autoscaler(cluster)["status"]["currentReplicas"] == MIN_PODS, 1800)


def autoscaler(cluster: Cluster) -> Any:
    return cluster.get("horizontalpodautoscaler/model-load-server")
