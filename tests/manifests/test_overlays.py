"""The manifests of the overlays, as `kubectl apply -k` renders them."""

from pathlib import Path

import pytest
import yaml

from tests.support.documents import blocks
from tests.support.manifests import Manifest, copy, kustomize, one, render
from tests.support.processes import ROOT

OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yml"))
IMAGES = {
    "SERVER_IMAGE": "registry.example.com/server:2",
    "LOADER_IMAGE": f"registry.example.com/loader@sha256:{0:064}",
}


def deployments(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == "Deployment"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_settings(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, image in IMAGES.items():
        monkeypatch.setenv(name, image)
    for deployment in deployments(render(overlay, tmp_path, {})):
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
    manifests = render("local", tmp_path, {})
    spec = one(manifests, "Deployment")["spec"]["template"]["spec"]
    requests = {
        container["resources"]["requests"]["cpu"] for container in (*spec["containers"], *spec["initContainers"])
    }
    assert requests == {"100m"}


def test_second_model_is_deployed_to_its_own_namespace(tmp_path: Path) -> None:
    [block] = [block for block in blocks("yaml") if "namespace: pets" in block.text]
    overlay = copy(tmp_path) / "overlays" / "pets"
    overlay.mkdir()
    (overlay / "kustomization.yml").write_text(block.text)
    rendered = kustomize(overlay)
    assert rendered.returncode == 0, rendered.stderr
    manifests = list(yaml.safe_load_all(rendered.stdout))
    assert {manifest["metadata"].get("namespace") or manifest["metadata"]["name"] for manifest in manifests} == {"pets"}
    assert one(manifests, "ConfigMap")["data"]["GCS_MODEL_BLOB"] == "pets/1/model.onnx"


def test_examples_name_the_service() -> None:
    service = yaml.safe_load((ROOT / "k8s/base/service.yml").read_text())
    [port] = service["spec"]["ports"]
    gateway, route = yaml.safe_load_all((ROOT / "k8s/examples/gateway.yml").read_text())
    ingress = yaml.safe_load((ROOT / "k8s/examples/ingress.yml").read_text())
    assert {backend["name"] for rule in route["spec"]["rules"] for backend in rule["backendRefs"]} == {
        service["metadata"]["name"]
    }
    assert {backend["port"] for rule in route["spec"]["rules"] for backend in rule["backendRefs"]} == {port["port"]}
    assert route["spec"]["parentRefs"] == [{"name": gateway["metadata"]["name"]}]
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    assert [path["backend"]["service"] for path in paths] == [
        {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    ] * len(paths)
    routed = [match["path"]["value"] for match in route["spec"]["rules"][0]["matches"]]
    assert routed == [path["path"] for path in paths] == ["/predict", "/metadata", "/label", "/health"]
