"""The Kubernetes manifests, rendered as `kubectl apply -k` does."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import ROOT

Manifest = dict[str, Any]

_KUSTOMIZE = shlex.split(os.environ.get("KUSTOMIZE", "kubectl kustomize"))
_IMAGES = {name: os.environ.get(f"{name.upper()}_IMAGE") for name in ("server", "loader")}


def render(overlay: str, directory: Path, settings: Mapping[str, str], namespace: str = "model-load") -> list[Manifest]:
    """Return the overlay's manifests.

    Args:
        overlay: the overlay's name in `k8s/overlays`.
        directory: an empty directory, for an overlay on top of it.
        settings: variables to set in the ConfigMap.
        namespace: the namespace for all objects.
    """
    changes: Manifest = {
        "resources": [os.path.relpath(ROOT / "k8s" / "overlays" / overlay, directory.resolve())],
        "namespace": namespace,
        "images": [
            {"name": f"model-load-{name}", "newName": image.rpartition(":")[0], "newTag": image.rpartition(":")[2]}
            for name, image in _IMAGES.items()
            if image
        ],
        "configMapGenerator": [
            {
                "name": "settings",
                "namespace": "model-load",
                "behavior": "merge",
                "literals": [f"{name}={value}" for name, value in settings.items()],
            }
        ],
    }
    (directory / "kustomization.yml").write_text(yaml.safe_dump(changes))
    rendered = subprocess.run([*_KUSTOMIZE, directory], capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the only manifest of this kind."""
    [manifest] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return manifest
