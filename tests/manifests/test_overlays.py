"""The manifests of the overlays, as `kubectl apply -k` renders them."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.documents import blocks
from tests.support.manifests import all_of, copy, kustomize, manifests, namespace, one
from tests.support.processes import ROOT

OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yml"))
IMAGES = {
    "SERVER_IMAGE": "registry.example.com/server:2",
    "LOADER_IMAGE": f"registry.example.com/loader@sha256:{0:064}",
}
STABLE, CANARY = "model-load", "model-load-canary"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_settings(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, image in IMAGES.items():
        monkeypatch.setenv(name, image)
    deployments = all_of(manifests(copy(tmp_path) / "overlays" / overlay), "Deployment")
    assert deployments
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        assert [container["image"] for container in spec["containers"]] == [IMAGES["SERVER_IMAGE"]]
        assert [container["image"] for container in spec["initContainers"]] == [IMAGES["LOADER_IMAGE"]]


@pytest.mark.parametrize(
    ("overlay", "name"), [*((overlay, "SERVER_IMAGE") for overlay in OVERLAYS), ("gcs", "LOADER_IMAGE")]
)
def test_nothing_is_rendered_without_an_image(overlay: str, name: str, tmp_path: Path) -> None:
    copied = copy(tmp_path)
    for path in copied.rglob("settings.env"):
        path.write_text(path.read_text().replace(f"{name}=", f"#{name}="))
    rendered = kustomize(copied / "overlays" / overlay)
    assert (rendered.returncode, rendered.stdout) == (1, "")
    assert f"`data.{name}` is missing" in rendered.stderr


def test_local_overlay_fits_on_two_processors(tmp_path: Path) -> None:
    spec = one(manifests(copy(tmp_path) / "overlays" / "local"), "Deployment")["spec"]["template"]["spec"]
    requested = {
        container["resources"]["requests"]["cpu"] for container in (*spec["containers"], *spec["initContainers"])
    }
    assert requested == {"100m"}


def test_second_model_is_deployed_to_its_own_namespace(tmp_path: Path) -> None:
    [block] = [block for block in blocks("yaml") if "namespace: pets" in block.text]
    overlay = copy(tmp_path) / "overlays" / "pets"
    overlay.mkdir()
    (overlay / "kustomization.yml").write_text(block.text)
    rendered = manifests(overlay)
    assert {*map(namespace, rendered)} == {"pets"}
    assert one(rendered, "ConfigMap")["data"]["GCS_MODEL_BLOB"] == "pets/1/model.onnx"


@pytest.mark.parametrize("overlay", ["canary", "canary-mirror"])
def test_each_version_of_the_canary_has_its_own_model_and_service(overlay: str, tmp_path: Path) -> None:
    rendered = manifests(copy(tmp_path) / "overlays" / overlay)
    assert {*map(namespace, rendered)} == {STABLE, CANARY}
    models = {namespace(made): made["data"]["GCS_MODEL_BLOB"] for made in all_of(rendered, "ConfigMap")}
    assert models == {STABLE: "iris/1/model.onnx", CANARY: "iris/2/model.onnx"}
    for kind in ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ServiceAccount"):
        assert {namespace(made) for made in all_of(rendered, kind)} == {STABLE, CANARY}
    [service] = {made["metadata"]["name"] for made in all_of(rendered, "Service")}
    [rule] = one(rendered, "HTTPRoute")["spec"]["rules"]
    stable, canary = {"name": service, "port": 80}, {"name": service, "namespace": CANARY, "port": 80}
    if overlay == "canary":
        assert rule["backendRefs"] == [{**stable, "weight": 95}, {**canary, "weight": 5}]
    else:
        assert rule["backendRefs"] == [{**stable, "weight": 95}]
        assert rule["filters"] == [{"type": "RequestMirror", "requestMirror": {"backendRef": canary, "percent": 10}}]
    grant = one(rendered, "ReferenceGrant")
    assert namespace(grant) == CANARY
    assert grant["spec"]["from"][0]["namespace"] == STABLE
    assert grant["spec"]["to"][0]["name"] == service


def test_canary_is_promoted_and_rolled_back_by_one_line(tmp_path: Path) -> None:
    overlay = copy(tmp_path) / "overlays" / "canary"
    commands = [command for block in blocks("console cluster") for command, _ in block.commands]
    promote, roll_back = (command for command in commands if re.match("sed .* k8s/overlays/canary/", command))
    for command in (promote, roll_back):
        before = {path: path.read_text().splitlines() for path in overlay.rglob("*.yml")}
        subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)  # noqa: S607
        after = {path: path.read_text().splitlines() for path in overlay.rglob("*.yml")}
        assert sum(one != other for path in before for one, other in zip(before[path], after[path], strict=True)) == 1
    rendered = manifests(overlay)
    models = {namespace(made): made["data"]["GCS_MODEL_BLOB"] for made in all_of(rendered, "ConfigMap")}
    assert models == {STABLE: "iris/2/model.onnx", CANARY: "iris/2/model.onnx"}
    [rule] = one(rendered, "HTTPRoute")["spec"]["rules"]
    assert [backend["weight"] for backend in rule["backendRefs"]] == [95, 0]


def test_keda_replaces_the_autoscaler_under_its_name(tmp_path: Path) -> None:
    overlays = copy(tmp_path) / "overlays"
    autoscaler = one(manifests(overlays / "gcs"), "HorizontalPodAutoscaler")
    rendered = manifests(overlays / "keda")
    assert not all_of(rendered, "HorizontalPodAutoscaler")
    scaled = one(rendered, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == one(rendered, "Deployment")["metadata"]["name"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (
        autoscaler["spec"]["minReplicas"],
        autoscaler["spec"]["maxReplicas"],
    )
    configured = scaled["advanced"]["horizontalPodAutoscalerConfig"]
    assert configured == {"name": autoscaler["metadata"]["name"], "behavior": autoscaler["spec"]["behavior"]}


def test_examples_name_the_service() -> None:
    service = yaml.safe_load((ROOT / "k8s/base/service.yml").read_text())
    [port] = service["spec"]["ports"]
    gateway, route = yaml.safe_load_all((ROOT / "k8s/examples/gateway.yml").read_text())
    ingress = yaml.safe_load((ROOT / "k8s/examples/ingress.yml").read_text())
    canary, _ = yaml.safe_load_all((ROOT / "k8s/overlays/canary/route.yml").read_text())
    [rule], [weighted] = route["spec"].pop("rules"), canary["spec"].pop("rules")
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]
    assert route["spec"]["parentRefs"] == [{"name": gateway["metadata"]["name"]}]
    assert (route, rule["matches"]) == (canary, weighted["matches"])
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    for path in paths:
        assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    routed = [match["path"]["value"] for match in rule["matches"]]
    assert routed == [path["path"] for path in paths] == ["/predict", "/v2", "/metadata", "/label", "/health"]
