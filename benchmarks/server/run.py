"""Put the same load on this server and on its peers, alternately, and measure CPU, memory and latency.

First, each server runs alone: its answers are compared with those of the floor, and its start and memory are measured.
Then all servers run, and each load is sent to one after the other, so that a temporary slowdown of the machine affects
all of them. A run with all servers and all loads writes `benchmarks/results/server*` and the server's tables in
`benchmarks/README.md`. Other runs, and runs with a base, only print tables.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.environments import ROOT, checkout
from benchmarks.report import write_results
from benchmarks.server.models import BenchmarkModel, benchmark_models
from benchmarks.server.process import Running, post, running
from benchmarks.server.servers import FLOOR, MAIN_CONNECTIONS, Cell, Server, servers
from benchmarks.server.tables import summary, write_tables

_POST = Path(__file__).parent / "post.lua"
_TOLERANCE = 1e-5
_PROBE_SECONDS = 0.01
_SETTLED_SECONDS = 2  # time for a server to release memory

# Rows per request and connections, by model.
WORK: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "iris": ((1, 10, 100, 1000, 10000), (1, 8, 64)),
    "wide": ((1000,), (8,)),
    "columns": ((1, 1000), (8,)),
    "neighbours": ((1,), (32,)),
    "mlp": ((1,), (32,)),
}
# Rows per slow request, by model, while the latency of other requests is measured.
MEANWHILE = {"iris": 10000, "slow": 1}
MEANWHILE_CONNECTIONS = MAIN_CONNECTIONS


class Bench:
    """One run of the benchmark.

    Args:
        scratch: directory for files of the servers.
        seconds: duration of each load.
        connections: numbers of connections to measure with; None means all.
    """

    def __init__(self, scratch: Path, seconds: int, connections: Sequence[int] | None) -> None:
        self._scratch = scratch
        self._seconds = seconds
        self._cells = [
            Cell(model, rows, count)
            for model, (numbers, counts) in WORK.items()
            for rows, count in itertools.product(numbers, counts)
            if connections is None or count in connections
        ]
        self._models = benchmark_models(scratch)
        self._count = 0
        self.starts: list[dict[str, Any]] = []
        self.loads: list[dict[str, Any]] = []
        self.meanwhile: list[dict[str, Any]] = []
        self.wrong: dict[str, list[str]] = {}

    def compare(self, candidates: list[Server]) -> None:
        """Record the requests that a server does not answer as the floor does."""
        expected: dict[tuple[str, int], npt.NDArray[Any]] = {}
        for server in sorted(candidates, key=lambda candidate: candidate.name != FLOOR):
            self.wrong[server.name] = []
            for name in self._models:
                if not self._takes(server, name):
                    continue
                counts = {cell.rows for cell in self._cells if cell.model == name and server.takes(cell)}
                with self._serve(server, name) as process:
                    for count in sorted(counts) or (1,):
                        answer = self._answer(server, process, name, count)
                        known = expected.setdefault((name, count), answer)
                        if answer.shape != known.shape or not np.allclose(answer, known, atol=_TOLERANCE):
                            self.wrong[server.name].append(f"{count} rows of {name}")
            _log(f"{server.name}: {self.wrong[server.name] or 'all answers are correct'}")

    def start(self, number: int, server: Server) -> None:
        """Measure the start time of one server, and its memory before and after small and large requests."""
        with self._serve(server, "iris") as process:
            figures = {"seconds": process.start_seconds, "memory_mb": process.memory_mb()}
            for rows in (1, 10000):
                self._wrk(server, process, Cell("iris", rows, 8), 1)
            process.settle()
            time.sleep(_SETTLED_SECONDS)
            figures["used_mb"] = process.memory_mb()
        self.starts.append({"round": number, "server": server.name, **figures})
        _log(f"round {number} {server.name}: {figures}")

    def load(self, rounds: int, candidates: list[Server]) -> None:
        """Measure all loads, and the latency of other requests during slow ones."""
        for name in self._models:
            with contextlib.ExitStack() as stack:
                able = [server for server in candidates if self._takes(server, name)]
                processes = {server: stack.enter_context(self._serve(server, name)) for server in able}
                for server, process in processes.items():
                    self._wrk(server, process, Cell(name, 1, 8), 1)
                for number in range(rounds):
                    for cell in (cell for cell in self._cells if cell.model == name):
                        for server in random.sample(able, len(able)):
                            if server.takes(cell) and f"{cell.rows} rows of {name}" not in self.wrong[server.name]:
                                self._load(number, server, processes[server], cell)
                    for server in random.sample(able, len(able)) if name in MEANWHILE else ():
                        cell = Cell(name, MEANWHILE[name], MEANWHILE_CONNECTIONS)
                        if server.is_full and f"{cell.rows} rows of {name}" not in self.wrong[server.name]:
                            self._load_meanwhile(number, server, processes[server], cell)

    def _takes(self, server: Server, model: str) -> bool:
        """Return whether a server is measured with a model."""
        if server.serving(model) is None:
            return False
        return server.is_full or any(server.takes(cell) for cell in self._cells if cell.model == model)

    def _load(self, number: int, server: Server, process: Running, cell: Cell) -> None:
        cpu = process.cpu_seconds()
        measured = self._wrk(server, process, cell, self._seconds)
        cpu = process.cpu_seconds() - cpu
        process.settle()
        measured["cpu_us"] = cpu / max(measured["requests"], 1) * 1e6
        self.loads.append({"round": number, "server": server.name, **asdict(cell), **measured})
        _log(f"round {number} {server.name} {cell}: {measured}")

    def _load_meanwhile(self, number: int, server: Server, process: Running, cell: Cell) -> None:
        """Send slow requests, and measure the latency of `/health` and of a request with one row at the same time."""
        row = server.body(self._models[cell.model].rows(1))
        probes = {"health": ("GET", server.health, None), "row": ("POST", server.predict, row)}
        if cell.model == "slow":
            del probes["row"]
        for probe, request in probes.items():
            with _probing(process.port, *request) as (latencies, failures):
                measured = self._wrk(server, process, cell, self._seconds + 1)
            measured["errors"] += len(failures)
            process.settle()
            for figure, share in (("p50", 50), ("p99", 99)):
                measured[f"{probe}_{figure}_ms"] = float(np.percentile(latencies, share)) * 1e3
            self.meanwhile.append({"round": number, "server": server.name, **asdict(cell), "probe": probe, **measured})
            _log(f"round {number} {server.name} {cell} meanwhile {probe}: {measured}")

    def _wrk(self, server: Server, process: Running, cell: Cell, seconds: int) -> dict[str, Any]:
        server = server.serving(cell.model) or server
        body = self._scratch / "body.json"
        body.write_bytes(server.body(self._models[cell.model].rows(cell.rows)))
        url = f"http://127.0.0.1:{process.port}{server.predict}"
        options = ["-t1", f"-c{cell.connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(_POST)]
        done = subprocess.run(
            ["wrk", *options, url, str(body), *([str(server.json_length)] if server.json_length else [])],
            check=True,
            capture_output=True,
            text=True,
        )
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return measured

    def _answer(self, server: Server, process: Running, model: str, count: int) -> npt.NDArray[Any]:
        server = server.serving(model) or server
        try:
            _, answer = post(process.port, server, server.body(self._models[model].rows(count)))
            return server.probabilities(answer, count)
        except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
            if server.name == FLOOR:
                raise
            return np.empty((0, 0))

    @contextlib.contextmanager
    def _serve(self, server: Server, name: str) -> Iterator[Running]:
        server = server.serving(name) or server
        self._count += 1
        directory = self._scratch / str(self._count)
        directory.mkdir()
        model: BenchmarkModel = self._models[name]
        with running(server, model.path, model.labels, directory, server.body(model.rows(1))) as process:
            yield process
        shutil.rmtree(directory)


@contextlib.contextmanager
def _probing(port: int, method: str, path: str, body: bytes | None) -> Iterator[tuple[list[float], list[str]]]:
    """Send a short request at regular intervals while the block runs; yield the latencies in seconds, and the failures.

    A request that is due while the previous one waits is sent after it; its latency counts from when it was due.
    """
    latencies: list[float] = []
    failures: list[str] = []
    over = threading.Event()

    def probe() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        due = time.perf_counter()
        while not over.wait(max(0, due - time.perf_counter())):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != http.client.OK:
                failures.append(f"{method} {path} was answered with {response.status}: {answer!r}")
            latencies.append(time.perf_counter() - due)
            due += _PROBE_SECONDS
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield latencies, failures
    finally:
        over.set()
        thread.join()


def _log(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def main() -> None:
    """Run the benchmark and write its results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=2, help="duration of each load (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements per server (default: 3)")
    parser.add_argument(
        "--connections",
        type=int,
        nargs="+",
        help="measure only loads with these numbers of connections",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure only servers whose names start with these")
    parser.add_argument("--base", metavar="COMMIT", help="compare this server with that commit's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as directory:
        base = checkout(arguments.base, Path(directory, "base")) if arguments.base else None
        everything = servers(base)
        names = arguments.only or [server.name for server in everything]
        for name in names:
            if not any(server.name.startswith(name) for server in everything):
                parser.error(f"no server's name starts with {name}: {', '.join(server.name for server in everything)}")
        candidates = [server for server in everything if server.name.startswith(tuple(names))]
        bench = Bench(Path(directory), arguments.seconds, arguments.connections)
        bench.compare(candidates)
        for number in range(arguments.rounds):
            for server in random.sample(candidates, len(candidates)):
                if server.is_full:
                    bench.start(number, server)
        bench.load(arguments.rounds, candidates)
    results = {
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "wrong": bench.wrong,
        "starts": bench.starts,
        "loads": bench.loads,
        "meanwhile": bench.meanwhile,
    }
    if base or arguments.connections or len(candidates) < len(everything):
        print(summary(results))
    else:
        write_results("server", results)
        write_tables(results)


if __name__ == "__main__":
    main()
