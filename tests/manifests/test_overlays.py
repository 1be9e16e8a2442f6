"""The manifests of the overlays, as `kubectl apply -k` renders them."""

from pathlib import Path

import pytest

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


def test_second_model_has_its_own_namespace(tmp_path: Path) -> None:
    for manifest in render("gcs", tmp_path, {"GCS_MODEL_BLOB": "pets/1/model.onnx"}, "pets"):
        name = manifest["metadata"]["name"] if manifest["kind"] == "Namespace" else manifest["metadata"]["namespace"]
        assert name == "pets"
