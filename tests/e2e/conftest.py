"""A network, and a bucket in it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from google.cloud import storage

from tests.e2e import podman
from tests.support.fake_gcs import fake_gcs_program, storage_client
from tests.support.processes import free_port, until

BASE_IMAGE = "docker.io/library/python:3.13-slim"
_PROGRAM = "/fake-gcs-server"
_START_SECONDS = 60


@dataclass
class Emulator:
    """A running fake-gcs-server.

    Attributes:
        url: where containers of the network reach it.
        bucket: a bucket there, which keeps old versions.
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
