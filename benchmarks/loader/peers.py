"""The programs that are compared, each in its own environment."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import environment_of, locked_environment

BUCKET = "models"
FILES = ("model.onnx", "label.json")

_DOWNLOAD_TO_FILENAME = """
import sys
from google.cloud import storage
bucket = storage.Client().bucket(sys.argv[1])
for name in ("model.onnx", "label.json"):
    bucket.blob(f"{sys.argv[2]}/{name}").download_to_filename(f"{sys.argv[3]}/{name}")
"""

# The fastest of 1, 2 and 4 workers, threads and processes, and chunks of 32, 64 and 128 MiB on two cores.
_DOWNLOAD_CHUNKS_CONCURRENTLY = """
import sys
from google.cloud import storage
from google.cloud.storage import transfer_manager
if __name__ == "__main__":
    bucket = storage.Client().bucket(sys.argv[1])
    for name in ("model.onnx", "label.json"):
        blob = bucket.blob(f"{sys.argv[2]}/{name}")
        target = f"{sys.argv[3]}/{name}"
        transfer_manager.download_chunks_concurrently(blob, target, chunk_size=64 << 20, max_workers=2)
"""

_KSERVE = """
import sys
from kserve_storage import Storage
Storage.download(f"{sys.argv[4]}://{sys.argv[1]}/{sys.argv[2]}", sys.argv[3])
"""

_BOTO3 = """
import sys
import boto3
client = boto3.client("s3")
for name in ("model.onnx", "label.json"):
    client.download_file(sys.argv[1], f"{sys.argv[2]}/{name}", f"{sys.argv[3]}/{name}")
"""

_S3FS = """
import sys
import s3fs
files = s3fs.S3FileSystem()
for name in ("model.onnx", "label.json"):
    files.get_file(f"{sys.argv[1]}/{sys.argv[2]}/{name}", f"{sys.argv[3]}/{name}")
"""


@dataclass
class Peer:
    """A program that downloads `model.onnx` and `label.json` from a prefix of the bucket to a directory."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def gcs_peers(url: str, key: Path, prefix: str, target: Path, scratch: Path) -> list[Peer]:
    """Return the programs for Google Cloud Storage that are available here, with credentials if they support them.

    Args:
        url: URL of the server.
        key: key file of the account whose tokens are fetched.
        prefix: prefix of the objects' names.
        target: an empty directory.
        scratch: another empty directory.
    """
    client = str(environment_of("gcs", "google-cloud-storage==3.17.1"))
    kserve = str(environment_of("kserve", "kserve-storage==0.21.0"))
    place = [BUCKET, prefix, str(target)]
    credentials = {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    library = credentials | {"API_ENDPOINT_OVERRIDE": url}
    found = [
        _loader(f"gs://{BUCKET}/{prefix}/model.onnx", target, credentials | {"GCS_ENDPOINT": url}),
        Peer("blob.download_to_filename", [client, "-c", _DOWNLOAD_TO_FILENAME, *place], library),
        Peer("download_chunks_concurrently", [client, "-c", _DOWNLOAD_CHUNKS_CONCURRENTLY, *place], library),
        Peer("kserve-storage", [kserve, "-c", _KSERVE, *place, "gs"], library),
    ]
    if gcloud := shutil.which("gcloud"):
        source = f"gs://{BUCKET}/{prefix}"
        settings = {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{url}/storage/v1/",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CONFIG": str(scratch / "gcloud"),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        }
        names = [f"{source}/model.onnx", f"{source}/label.json"]
        found.append(Peer("gcloud storage cp", [gcloud, "storage", "cp", *names, str(target)], settings))
    media = f"{url}/download/storage/v1/b/{BUCKET}/o/{prefix}%2F"
    return found + _curl({name: f"{media}{name}?alt=media" for name in FILES}, target)


def s3_peers(url: str, prefix: str, target: Path) -> list[Peer]:
    """Return the programs for S3 that are available here, with the same arguments as `gcs_peers`."""
    boto3 = str(environment_of("boto3", "boto3==1.44.8"))
    s3fs = str(environment_of("s3fs", "s3fs==2026.9.0"))
    kserve = str(environment_of("kserve", "kserve-storage==0.21.0"))
    place = [BUCKET, prefix, str(target)]
    settings = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return [
        _loader(f"s3://{BUCKET}/{prefix}/model.onnx", target, settings),
        Peer("boto3 download_file", [boto3, "-c", _BOTO3, *place], settings),
        Peer("s3fs", [s3fs, "-c", _S3FS, *place], settings),
        Peer("kserve-storage", [kserve, "-c", _KSERVE, *place, "s3"], settings),
        *_curl({name: f"{url}/{BUCKET}/{prefix}/{name}" for name in FILES}, target),
    ]


def _loader(uri: str, target: Path, settings: dict[str, str]) -> Peer:
    python = str(locked_environment("loader", "--only-group", "loader"))
    paths = {"MODEL_FILEPATH": str(target / "model.onnx"), "LABEL_FILEPATH": str(target / "label.json")}
    return Peer("this loader", [python, "-m", "loader"], {"MODEL_URI": uri, **paths, **settings})


def _curl(urls: dict[str, str], target: Path) -> list[Peer]:
    if not (curl := shutil.which("curl")):
        return []
    outputs = [word for name, url in urls.items() for word in ("--output", str(target / name), url)]
    return [Peer("curl", [curl, "--silent", "--show-error", "--fail", *outputs])]
