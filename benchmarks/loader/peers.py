"""The programs that are compared, each in its own environment."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import environment_of, locked_environment

BUCKET = "models"

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
Storage.download(f"gs://{sys.argv[1]}/{sys.argv[2]}", sys.argv[3])
"""


@dataclass
class Peer:
    """A program that downloads `model.onnx` and `label.json` from a prefix of the bucket to a directory."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def peers(url: str, prefix: str, target: Path, scratch: Path) -> list[Peer]:
    """Return the programs that are available on this machine."""
    client = str(environment_of("gcs", "google-cloud-storage==3.17.1"))
    kserve = str(environment_of("kserve", "kserve-storage==0.21.0"))
    place = [BUCKET, prefix, str(target)]
    media = f"{url}/download/storage/v1/b/{BUCKET}/o/{prefix}%2F"
    emulator = {"STORAGE_EMULATOR_HOST": url}
    found = [
        Peer(
            "this loader",
            [str(locked_environment("loader", "--only-group", "loader")), "-m", "loader"],
            emulator
            | {
                "GCS_BUCKET": BUCKET,
                "GCS_MODEL_BLOB": f"{prefix}/model.onnx",
                "MODEL_FILEPATH": str(target / "model.onnx"),
                "LABEL_FILEPATH": str(target / "label.json"),
            },
        ),
        Peer("blob.download_to_filename", [client, "-c", _DOWNLOAD_TO_FILENAME, *place], emulator),
        Peer("download_chunks_concurrently", [client, "-c", _DOWNLOAD_CHUNKS_CONCURRENTLY, *place], emulator),
        Peer("kserve-storage", [kserve, "-c", _KSERVE, *place], emulator),
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
    if curl := shutil.which("curl"):
        command = [curl, "--silent", "--show-error", "--fail"]
        for name in ("model.onnx", "label.json"):
            command += ["--output", str(target / name), f"{media}{name}?alt=media"]
        found.append(Peer("curl", command))
    return found
