"""One storage per kind of source, served by a real program behind a proxy that injects faults."""

import hashlib
import logging
import re
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.integration.loader.fault_proxy import FaultProxy
from tests.support.fake_gcs import storage_client
from tests.support.registry import push

MODEL = "iris/1/model.onnx"
LABELS = "iris/1/label.json"


class WebFiles(ThreadingHTTPServer):
    """A web server for files in memory, with ranges and entity tags."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _WebHandler)
        self.objects: dict[str, bytes] = {}
        self.has_ranges = True


class _WebHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = cast("WebFiles", self.server)
        content = server.objects.get(urlsplit(self.path).path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if server.has_ranges else None
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if asked else (0, len(content))
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("ETag", f'"{_sha256_once(content)[:16]}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def web_files() -> Iterator[WebFiles]:
    """Run a `WebFiles` server."""
    server = WebFiles()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Storage(ABC):
    """Files by name, and the settings that load them.

    Attributes:
        proxy: in front of the server.
        settings: for every load.
        has_checksums: whether it keeps checksums of files that are put as usual.
        always_has_checksums: whether there is no other way to put a file.
        is_immutable: whether what was looked up once stays there, whatever is put later.
        has_ranges: whether it can be asked for a part of a file.
    """

    has_checksums = True
    always_has_checksums = True
    is_immutable = False
    has_ranges = True

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.settings: dict[str, str] = {"MODEL_URI": self.uri(MODEL)}

    @abstractmethod
    def uri(self, name: str) -> str:
        """Return the URI of a file."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Write or overwrite a file."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file."""

    def pins(self, model: bytes, labels: bytes) -> dict[str, str]:  # noqa: ARG002
        """Return the settings that the loader requires for these files."""
        return {}

    def put_without_checksum(self, name: str, content: bytes) -> None:
        """Write a file so that the storage provides no checksum of it."""
        self.put(name, content)

    @property
    def place(self) -> str:
        """The model's URI."""
        return self.settings["MODEL_URI"]

    @property
    def named(self) -> str:
        """The URI that messages must contain: the model's, or that of its directory."""
        return self.place.partition("#")[0]


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

    always_has_checksums = False

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

    def put_without_checksum(self, name: str, content: bytes) -> None:
        upload = {"Bucket": self._name, "Key": name}
        upload["UploadId"] = self.client.create_multipart_upload(**upload)["UploadId"]
        part = self.client.upload_part(**upload, PartNumber=1, Body=content)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        self.client.complete_multipart_upload(**upload, MultipartUpload=parts)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self._name, Key=name)


class Https(Storage):
    """A web server with TLS and a test certificate."""

    has_checksums = always_has_checksums = False

    def __init__(self, proxy: FaultProxy, files: WebFiles, authority: Path) -> None:
        self._files = files
        self.has_ranges = files.has_ranges
        self._name = uuid.uuid4().hex
        super().__init__(proxy)
        self.settings["SSL_CERT_FILE"] = str(authority)

    def uri(self, name: str) -> str:
        return f"{self.proxy.url}/{self._name}/{name}"

    def put(self, name: str, content: bytes) -> None:
        self._files.objects[f"/{self._name}/{name}"] = content

    def delete(self, name: str) -> None:
        del self._files.objects[f"/{self._name}/{name}"]

    def pins(self, model: bytes, labels: bytes) -> dict[str, str]:
        return {"model_sha256": sha256(model), "label_sha256": sha256(labels)}


class Oci(Storage):
    """A repository of docker-registry; after each change, its tag points to a manifest of all files."""

    is_immutable = True

    def __init__(self, proxy: FaultProxy, upstream: str) -> None:
        self._upstream = upstream
        self._repository = f"models/{uuid.uuid4().hex}"
        self._files: dict[str, bytes] = {}
        super().__init__(proxy)

    def uri(self, name: str) -> str:
        return f"oci://{self.proxy.address}/{self._repository}:1#{name}"

    def put(self, name: str, content: bytes) -> None:
        self._files[name] = content
        push(self._upstream, self._repository, "1", self._files)

    def delete(self, name: str) -> None:
        del self._files[name]
        push(self._upstream, self._repository, "1", self._files)


@cache
def s3_client(url: str) -> Any:
    """Return a botocore client for the server at the URL."""
    session = botocore.session.Session()
    session.set_credentials("key", "secret")
    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    return session.create_client("s3", region_name="us-east-1", endpoint_url=url, config=config)


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


def gcs_bytes(_: str, path: str, __: str) -> bool:
    return path.startswith("/download/")


def s3_bytes(method: str, *_: str) -> bool:
    return method == "GET"


def oci_bytes(_: str, path: str, __: str) -> bool:
    return "/blobs/" in path


def https_bytes(_: str, __: str, asked: str) -> bool:
    return asked != "bytes=0-0"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_sha256_once = lru_cache(maxsize=8)(sha256)
