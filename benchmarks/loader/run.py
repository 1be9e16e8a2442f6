"""Download a model of 1 GiB and one of 2 KiB, each with its label file, with the loader and with its peers.

The sources are Google Cloud Storage (fake-gcs-server, with credentials from a token server) and S3 (a small server
of this benchmark). All programs download the same objects, alternately and in fresh processes. The figures are those
of the whole process. Writes `benchmarks/results/loader*` and the loader's tables in `benchmarks/README.md`.
"""

import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from onnx import helper

from benchmarks.chart import chart
from benchmarks.environments import ROOT
from benchmarks.loader.peers import BUCKET, FILES, Peer, gcs_peers, s3_peers
from benchmarks.report import RESULTS, machine, table, write_results, write_section
from tests.support.fake_gcs import fake_gcs_server
from tests.support.processes import free_port
from volume.receipt import sha256_of

HERE = Path(__file__).parent
SIZES = {"1 GiB": (1 << 30, 5), "2 KiB": (2 << 10, 9)}
OURS = "this loader"
FIGURES = {"seconds": "seconds", "cpu_seconds": "CPU s", "peak_mb": "peak MB"}

Measurement = dict[str, float]
Results = dict[str, dict[str, list[Measurement]]]


def main() -> None:
    """Run the benchmark and write its results."""
    results: Results = {}
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as directory:
        scratch = Path(directory)
        buckets, target = scratch / "s3", scratch / "target"
        with (
            fake_gcs_server(scratch / "gcs") as gcs,
            _server("token_server") as tokens,
            _server("s3_server", buckets) as s3,
        ):
            client = storage.Client(
                project="benchmark",
                credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
                client_options={"api_endpoint": gcs},
            )
            bucket = client.create_bucket(BUCKET)
            key = write_key(scratch / "key.json", tokens)
            for label, (size, rounds) in SIZES.items():
                prefix = f"model-of-{size}"
                digest = upload(bucket, buckets, prefix, size)
                programs = gcs_peers(gcs, key, prefix, target, scratch)
                results[f"Google Cloud Storage, {label}"] = compare(programs, rounds, digest)
                bucket.blob(f"{prefix}/model.onnx").delete()
                results[f"S3, {label}"] = compare(s3_peers(s3, prefix, target), rounds, digest)
    write(results)


def upload(bucket: storage.Bucket, directory: Path, prefix: str, size: int) -> str:
    """Upload a model and its label file to both servers, and return the model's sha256."""
    path = directory / BUCKET / prefix / "model.onnx"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        write_model(file, size)
    shutil.copyfile(ROOT / "models" / "label.json", path.with_name("label.json"))
    for name in FILES:
        bucket.blob(f"{prefix}/{name}").upload_from_filename(path.with_name(name), timeout=600)
    return sha256_of(path)


def write_key(path: Path, url: str) -> Path:
    """Write a service account's key whose tokens come from the URL, and return its path."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    content = {
        "type": "service_account",
        "project_id": "benchmark",
        "client_email": "loader@example.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "token_uri": f"{url}/token",
    }
    path.write_text(json.dumps(content))
    return path


@contextmanager
def _server(name: str, *arguments: Path) -> Iterator[str]:
    """Run one of this benchmark's servers, and yield its URL."""
    port = free_port()
    command: list[str | Path] = [sys.executable, HERE / f"{name}.py", *arguments, str(port)]
    with subprocess.Popen(command) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except ConnectionRefusedError:
                    if process.poll() is not None:
                        raise
                    time.sleep(0.02)
                else:
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def write_model(file: BinaryIO, size: int) -> None:
    """Write an ONNX model of about `size` bytes with random weights, without holding it in memory."""
    count = size - 200
    model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], []))
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    file.write(model.SerializeToString())
    raw_data = field_header(9, count)
    tensor = b"\x08" + varint(count) + b"\x10\x02" + b"\x42\x01w"
    initializer = field_header(5, len(tensor) + len(raw_data) + count)
    file.write(field_header(7, len(graph) + len(initializer) + len(tensor) + len(raw_data) + count))
    file.write(graph + initializer + tensor + raw_data)
    file.writelines(os.urandom(min(1 << 20, count - start)) for start in range(0, count, 1 << 20))


def field_header(number: int, length: int) -> bytes:
    """Return the header of a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(length)


def varint(value: int) -> bytes:
    """Return a number as a protobuf varint."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def compare(programs: list[Peer], rounds: int, digest: str) -> dict[str, list[Measurement]]:
    """Run each program once per round, in random order, after one round without measurement."""
    measured: dict[str, list[Measurement]] = {peer.name: [] for peer in programs}
    for number in range(rounds + 1):
        for peer in random.sample(programs, len(programs)):
            measurement = run(peer, programs[0], digest)
            sys.stderr.write(f"round {number} {peer.name}: {measurement['seconds']:.2f} s\n")
            if number:
                measured[peer.name].append(measurement)
    return measured


def run(peer: Peer, loader: Peer, digest: str) -> Measurement:
    """Run a program with an empty target directory, check the downloaded model, and return the measurement."""
    target = Path(loader.environment["MODEL_FILEPATH"]).parent
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    os.sync()  # otherwise a program could wait for the writes of the previous one
    base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.run(
        [sys.executable, "-I", "-S", HERE / "measure.py", *peer.command],
        env=base | peer.environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    if sha256_of(target / "model.onnx") != digest:
        raise ValueError(f"{peer.name} downloaded other bytes than were uploaded")
    measurement: Measurement = json.loads(process.stdout)
    return measurement


def write(results: Results) -> None:
    """Write the results as JSON, as tables and as charts."""
    write_results("loader", {"runs": results})
    sections = []
    for label, measured in results.items():
        medians = {
            name: {figure: statistics.median(one[figure] for one in runs) for figure in FIGURES}
            for name, runs in measured.items()
        }
        ours = medians[OURS]["seconds"]
        rows = [
            [
                name,
                f"{figures['seconds']:.2f}",
                f"{figures['cpu_seconds']:.2f}",
                f"{figures['peak_mb']:.0f}",
                f"{figures['seconds'] / ours:.1f} x",
            ]
            for name, figures in sorted(medians.items(), key=lambda item: item[1]["seconds"])
        ]
        caption = f"**{label}**, medians of {len(measured[OURS])} rounds, whole process ({machine()}):"
        sections += [caption, table(["program", *FIGURES.values(), "time / loader's time"], rows)]
        if label.endswith("1 GiB"):
            seconds = {name: figures["seconds"] for name, figures in medians.items()}
            title = f"{label} model and labels: seconds of the whole process"
            chart(RESULTS / f"loader-{slug(label)}.svg", title, seconds, OURS)
    write_section("loader", "\n\n".join(sections))


def slug(label: str) -> str:
    """Return a label for file names; Google Cloud Storage is left out of it."""
    return label.replace("Google Cloud Storage, ", "").replace(", ", "-").replace(" ", "").lower()


if __name__ == "__main__":
    main()
