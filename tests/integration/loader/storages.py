"""One storage of each kind, served by a real program, behind a proxy that can spoil its answers."""

import hashlib
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import botocore.session
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.integration.loader.fault_proxy import FaultProxy
from tests.support.fake_gcs import storage_client

MODEL = "iris/1/model.onnx"
LABELS = "iris/1/label.json"


class Storage(ABC):
    """Files by name, and the settings that load them.

    Attributes:
        proxy: in front of the server.
        settings: for every load.
    """

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.settings: dict[str, str] = {"MODEL_URI": self.uri(MODEL)}

    @abstractmethod
    def uri(self, name: str) -> str:
        """Return the URI of a file."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Write a file, over what is there."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file."""

    def pins(self, model: bytes, labels: bytes) -> dict[str, str]:  # noqa: ARG002
        """Return the settings without which these bytes are not taken."""
        return {}

    @property
    def place(self) -> str:
        """What messages have to name: the model's place."""
        return self.settings["MODEL_URI"]


class Gcs(Storage):
    """A bucket of fake-gcs-server."""

    def __init__(self, proxy: FaultProxy, upstream: str) -> None:
        self._bucket = storage_client(upstream).create_bucket(f"b-{uuid.uuid4().hex}")
        super().__init__(proxy)
        self.settings["STORAGE_EMULATOR_HOST"] = proxy.url

    def uri(self, name: str) -> str:
        return f"gs://{self._bucket.name}/{name}"

    def put(self, name: str, content: bytes) -> None:
        self._bucket.blob(name).upload_from_string(content)

    def delete(self, name: str) -> None:
        self._bucket.blob(name).delete()


class S3(Storage):
    """A bucket of moto."""

    def __init__(self, proxy: FaultProxy, upstream: str, *, versioned: bool) -> None:
        self._name = f"b-{uuid.uuid4().hex}"
        self.client = s3_client(upstream)
        self.client.create_bucket(Bucket=self._name)
        if versioned:
            self.client.put_bucket_versioning(Bucket=self._name, VersioningConfiguration={"Status": "Enabled"})
        super().__init__(proxy)
        self.settings |= {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, name: str) -> str:
        return f"s3://{self._name}/{name}"

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self._name, Key=name, Body=content, ChecksumAlgorithm="CRC64NVME")

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self._name, Key=name)


def s3_client(url: str) -> Any:
    """Return botocore's client of the server at the URL."""
    session = botocore.session.Session()
    session.set_credentials("key", "secret")
    return session.create_client(
        "s3", region_name="us-east-1", endpoint_url=url, config=Config(s3={"addressing_style": "path"})
    )


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto's server and yield its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def gcs_bytes(_: str, path: str) -> bool:
    return path.startswith("/download/")


def s3_bytes(method: str, _: str) -> bool:
    return method == "GET"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
