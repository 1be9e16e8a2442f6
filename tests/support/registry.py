"""The real docker-registry program, as Debian ships it."""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import requests

from tests.support.processes import free_port
from tests.support.tools import tool

_START_SECONDS = 20
TITLE = "org.opencontainers.image.title"


@contextmanager
def registry(root: Path, htpasswd: Path | None = None) -> Iterator[str]:
    """Run a registry that keeps its files under `root`, and yield its URL.

    Args:
        root: a directory.
        htpasswd: who may use it, by basic authentication; anyone without this.
    """
    program = tool("docker-registry", "docker-registry")
    port = free_port()
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root / "files")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if htpasswd:
        settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(htpasswd)}}
    configuration = root / "config.yml"
    configuration.write_text(json.dumps(settings))  # which is YAML, too
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [program, "serve", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for(url, process)
            yield url
        finally:
            process.kill()


def push(
    url: str,
    repository: str,
    tag: str,
    files: Mapping[str, bytes],
    *,
    annotation: str = TITLE,
    media_type: str = "application/octet-stream",
    auth: tuple[str, str] | None = None,
) -> str:
    """Push the files as raw layers with their names in an annotation, and return the manifest's digest."""
    with requests.Session() as session:
        session.auth = auth
        layers = [
            {**_push_blob(session, url, repository, content, media_type), "annotations": {annotation: name}}
            for name, content in files.items()
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _push_blob(session, url, repository, b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": layers,
        }
        answer = session.put(
            f"{url}/v2/{repository}/manifests/{tag}",
            data=json.dumps(manifest),
            headers={"Content-Type": str(manifest["mediaType"])},
            timeout=30,
        )
        answer.raise_for_status()
        return answer.headers["Docker-Content-Digest"]


def _push_blob(
    session: requests.Session, url: str, repository: str, content: bytes, media_type: str
) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    begun = session.post(f"{url}/v2/{repository}/blobs/uploads/", timeout=30)
    begun.raise_for_status()
    place = urljoin(url, begun.headers["Location"])
    session.put(place, params={"digest": digest}, data=content, timeout=60).raise_for_status()
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            requests.get(f"{url}/v2/", timeout=5)
        except requests.ConnectionError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
