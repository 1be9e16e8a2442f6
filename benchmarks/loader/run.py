"""Download a model of 1 GiB and one of 2 KiB, each with its label file, with the loader and with its peers.

All programs download the same objects from the same fake-gcs-server, alternately and in fresh processes. The figures
are those of the whole process. Writes `benchmarks/results/loader*` and the loader's tables in `benchmarks/README.md`.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from onnx import helper

from benchmarks.chart import chart
from benchmarks.environments import ROOT
from benchmarks.loader.peers import BUCKET, Peer, peers
from benchmarks.report import RESULTS, machine, table, write_results, write_section
from tests.support.fake_gcs import fake_gcs_server
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
        with fake_gcs_server(scratch / "buckets") as url:
            client = storage.Client(
                project="benchmark",
                credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
                client_options={"api_endpoint": url},
            )
            bucket = client.create_bucket(BUCKET)
            for label, (size, rounds) in SIZES.items():
                prefix = f"model-of-{size}"
                digest = upload(bucket, prefix, size, scratch)
                results[label] = compare(peers(url, prefix, scratch / "target", scratch), rounds, digest)
    write(results)


def upload(bucket: storage.Bucket, prefix: str, size: int, scratch: Path) -> str:
    """Upload a model and its label file, and return the model's sha256."""
    path = scratch / "model.onnx"
    with path.open("wb") as file:
        write_model(file, size)
    bucket.blob(f"{prefix}/model.onnx").upload_from_filename(path, timeout=600)
    bucket.blob(f"{prefix}/label.json").upload_from_filename(ROOT / "models" / "label.json")
    digest = sha256_of(path)
    path.unlink()
    return digest


def write_model(file: BinaryIO, size: int) -> None:
    """Write an ONNX model of about `size` bytes with random weights, without holding it in memory.

    The weights are in a second occurrence of the field `graph`, which protobuf merges with the first.
    """
    count = size - 200
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [])
    file.write(helper.make_model(graph).SerializeToString())
    raw_data = field_header(9, count)
    tensor = b"\x08" + varint(count) + b"\x10\x02" + b"\x42\x01w"
    initializer = field_header(5, len(tensor) + len(raw_data) + count)
    file.write(field_header(7, len(initializer) + len(tensor) + len(raw_data) + count))
    file.write(initializer + tensor + raw_data)
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
        sections += [caption, table(["program", *FIGURES.values(), "loader is faster by"], rows)]
        chart(
            RESULTS / f"loader-{label.replace(' ', '').lower()}.svg",
            f"{label} model and labels: seconds of the whole process",
            {name: figures["seconds"] for name, figures in medians.items()},
            OURS,
        )
    write_section("loader", "\n\n".join(sections))


if __name__ == "__main__":
    main()
