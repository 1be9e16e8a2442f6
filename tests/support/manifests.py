"""The Kubernetes manifests, rendered as `kubectl apply -k` does."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import ROOT

Manifest = dict[str, Any]

_KUSTOMIZE = shlex.split(os.environ.get("KUSTOMIZE", "kubectl kustomize"))
_IMAGE = re.compile(r"^#?(SERVER_IMAGE|LOADER_IMAGE)=(.*)$", re.MULTILINE)


def copy(directory: Path) -> Path:
    """Copy `k8s/` to the directory, name the images in the settings of all overlays, and return the copy.

    The images are those in the environment, or else those that the settings name as examples.
    """
    copied = shutil.copytree(ROOT / "k8s", directory / "k8s")
    for path in copied.rglob("settings.env"):
        path.write_text(_IMAGE.sub(lambda line: f"{line[1]}={os.environ.get(line[1]) or line[2]}", path.read_text()))
    return copied


def render(overlay: str, directory: Path, settings: Mapping[str, str], target: str = "model-load") -> list[Manifest]:
    """Return the overlay's manifests.

    Args:
        overlay: the overlay's name in `k8s/overlays`.
        directory: an empty directory, for an overlay on top of it.
        settings: variables to set in the ConfigMap.
        target: the namespace for all objects.
    """
    changes: Manifest = {
        "resources": [f"k8s/overlays/{overlay}"],
        "namespace": target,
        "configMapGenerator": [
            {
                "name": "settings",
                "namespace": "model-load",
                "behavior": "merge",
                "literals": [f"{name}={value}" for name, value in settings.items()],
            }
        ],
    }
    copy(directory)
    (directory / "kustomization.yml").write_text(yaml.safe_dump(changes))
    return manifests(directory)


def manifests(directory: Path) -> list[Manifest]:
    """Return the manifests of the kustomization in the directory."""
    rendered = kustomize(directory)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


def kustomize(directory: Path) -> subprocess.CompletedProcess[str]:
    """Render the kustomization in the directory."""
    return subprocess.run([*_KUSTOMIZE, directory], capture_output=True, text=True, check=False)


def namespace(manifest: Manifest) -> str:
    """Return the manifest's namespace, or the one that it is."""
    found: str = manifest["metadata"].get("namespace") or manifest["metadata"]["name"]
    return found


def all_of(rendered: list[Manifest], kind: str) -> list[Manifest]:
    """Return the manifests of this kind."""
    return [manifest for manifest in rendered if manifest["kind"] == kind]


def one(rendered: list[Manifest], kind: str) -> Manifest:
    """Return the only manifest of this kind."""
    [manifest] = all_of(rendered, kind)
    return manifest
