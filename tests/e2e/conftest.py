"""Fixtures: a network, a bucket in it, and a metadata server with tokens for the bucket."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.cloud import storage

from tests.e2e import podman
from tests.support.fake_gcs import fake_gcs_program, storage_client
from tests.support.processes import free_port, until

BASE_IMAGE = "docker.io/library/python:3.13-slim"
_PROGRAM = "/fake-gcs-server"
_GOOGLE_CLOUD = Path(__file__).with_name("google_cloud.py")
_START_SECONDS = 60


@dataclass
class Emulator:
    """A running fake-gcs-server.

    Attributes:
        url: the URL for containers in the network.
        bucket: a bucket with object versioning.
    """

    url: str
    bucket: storage.Bucket


@pytest.fixture(scope="session")
def network() -> Iterator[str]:
    with podman.network() as name:
        yield name


@pytest.fixture(scope="session")
def emulator(network: str) -> Iterator[Emulator]:
    port = free_port()
    options = {
        "volume": f"{fake_gcs_program()}:{_PROGRAM}:ro",
        "publish": f"127.0.0.1:{port}:{port}",
        "entrypoint": _PROGRAM,
    }
    flags = ("-scheme=http", f"-port={port}", "-backend=memory", f"-external-url=http://127.0.0.1:{port}")
    with podman.running(BASE_IMAGE, network, options, *flags) as address:
        url = f"http://127.0.0.1:{port}"
        until(lambda: podman.answers(f"{url}/storage/v1/b"), _START_SECONDS)
        client = storage_client(url)
        bucket = client.bucket("models")
        bucket.versioning_enabled = True
        yield Emulator(f"http://{address}:{port}", client.create_bucket(bucket))


@pytest.fixture(scope="session")
def google_cloud(network: str, emulator: Emulator) -> Iterator[str]:
    """The host and port, in the network, of a metadata server; it also serves the bucket to holders of its tokens."""
    port = free_port()
    options = {
        "volume": f"{_GOOGLE_CLOUD}:/google_cloud.py:ro",
        "publish": f"127.0.0.1:{port}:{port}",
        "entrypoint": "python3",
    }
    arguments = ("/google_cloud.py", str(port), emulator.url.removeprefix("http://"))
    with podman.running(BASE_IMAGE, network, options, *arguments) as address:
        until(lambda: podman.answers(f"http://127.0.0.1:{port}", {"Metadata-Flavor": "Google"}), _START_SECONDS)
        yield f"{address}:{port}"
