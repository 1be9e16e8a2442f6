"""Measure the server in one process at its capacity and at four times its capacity.

A model that takes 5 ms gets requests in an open loop, at random times with a fixed average rate: each request is sent
when it is due, whether or not earlier ones have been answered, and its latency counts from then. No client on the same
machine is fast enough to do that with the iris model. There, `wrk` uses a number of connections, and sends the next
request as soon as the previous one is answered, while an open loop of 200 requests per second measures the latency. The
same open loop also runs while 100 connections send requests without waiting for answers. Writes
`benchmarks/results/overload.json` and its table in `benchmarks/README.md`.
"""

import asyncio
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import uvloop

from benchmarks.environments import ROOT
from benchmarks.report import machine, table, write_results, write_section
from benchmarks.server.models import BenchmarkModel, benchmark_models
from tests.support.load import flooding
from tests.support.processes import ONE_PROCESS, Server, in_new_interpreter, serving
from tests.support.wire import connect, request

_POST = Path(__file__).parent / "post.lua"
_ROUNDS = 3
_SECONDS = 8
_CAPACITY_SECONDS = 4
_SLOW_SECONDS = 0.005
_TIMES = (1, 4)
_CONNECTIONS = {"iris": 64, "slow": 8}  # they keep the server busy, and none is refused
_FLOODS = {"flood of probes": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "flood of predictions": request()}
_FLOODING = 100
_SAMPLES = 200  # per second
_OPEN = 64
_LAST_SECONDS = 20
_FRESH_SECONDS = 4  # idle connections are not reused after this time
_OK, _BUSY = 200, 503


class _Connection(asyncio.Protocol):
    """A connection of the client, with one request at a time."""

    def __init__(self, idle: list["_Connection"], answers: list[tuple[int, float]]) -> None:
        self._idle = idle
        self._answers = answers
        self._due = 0.0
        self.since = time.perf_counter()
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes, due: float) -> None:
        """Send a request that was due at this time."""
        self._due = due
        self._got = b""
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length and len(body) == int(length[1]):
            self.since = time.perf_counter()
            self._answers.append((int(head.split(b" ", 2)[1]), self.since - self._due))
            self._idle.append(self)


async def _ask_openly(port: int, body: bytes, rate: float, seconds: float) -> list[tuple[int, float]]:
    """Return the status and the latency in seconds of each request.

    Raises:
        TimeoutError: a request was not answered.
    """
    request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    idle: list[_Connection] = []
    answers: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()
    connect = partial(loop.create_connection, lambda: _Connection(idle, answers), "127.0.0.1", port)

    async def ask_on_another(due: float) -> None:
        _, connection = await connect()
        connection.ask(request, due)

    idle += [(await connect())[1] for _ in range(_OPEN)]
    chance = np.random.default_rng(0)
    connecting = set()
    sent = 0
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        if idle and time.perf_counter() - idle[-1].since < _FRESH_SECONDS:
            idle.pop().ask(request, due)
        else:
            connecting.add(asyncio.create_task(ask_on_another(due)))
        sent += 1
        due += chance.exponential(1 / rate)
    async with asyncio.timeout(_LAST_SECONDS):
        while len(answers) < sent:  # noqa: ASYNC110 (an event per answer would cost more)
            await asyncio.sleep(0.01)
    return answers


class _Bench:
    """Measurements of one server.

    Args:
        server: the server.
        body: body of the requests.
        file: file to write the body to, for wrk.
    """

    def __init__(self, server: Server, body: bytes, file: Path) -> None:
        self._server = server
        self._port = httpx.URL(server.url).port or 0
        self._body = body
        self._file = file
        file.write_bytes(body)

    def capacity(self, connections: int) -> float:
        """Return the answered requests per second with this number of busy connections."""
        done = self._wrk(connections, _CAPACITY_SECONDS)
        return float(done["requests"] / done["seconds"])

    def open(self, rate: float) -> dict[str, float]:
        """Send requests at this average rate."""
        answers = self._sample(rate)
        busy = sum(status == _BUSY for status, _ in answers)
        return _figures(len(answers), busy, _SECONDS, answers)

    def closed(self, connections: int) -> dict[str, float]:
        """Send requests over this number of busy connections."""
        with subprocess.Popen(self._command(connections, _SECONDS + 1), stdout=subprocess.PIPE, text=True) as wrk:
            time.sleep(0.5)
            answers = self._sample(_SAMPLES)
            output, _ = wrk.communicate()
        done = _checked(output)
        return _figures(done["requests"], done["refused"], done["seconds"], answers)

    def flooded(self, sent: bytes) -> dict[str, float]:
        """Send requests while other connections send these bytes repeatedly; also return the growth of memory."""
        before = self._server.resident_bytes()
        with ExitStack() as opened:
            connections = [opened.enter_context(connect(self._server)) for _ in range(_FLOODING)]
            with flooding(connections, sent * 2000, reads=True):
                answers = self._sample(_SAMPLES)
                grown = self._server.resident_bytes() - before
        busy = sum(status == _BUSY for status, _ in answers)
        return {**_figures(len(answers), busy, _SECONDS, answers), "grown_mb": grown / 1e6}

    def _sample(self, rate: float) -> list[tuple[int, float]]:
        return uvloop.run(_ask_openly(self._port, self._body, rate, _SECONDS))

    def _wrk(self, connections: int, seconds: int) -> dict[str, Any]:
        command = self._command(connections, seconds)
        return _checked(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def _command(self, connections: int, seconds: int) -> list[str]:
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(_POST)]
        return ["wrk", *options, f"http://127.0.0.1:{self._port}/predict", str(self._file)]


def _checked(output: str) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(output.splitlines()[-1])
    if done["errors"] != done["refused"]:
        raise RuntimeError(f"wrk reports errors other than refused requests: {done}")
    return done


def _figures(asked: float, busy: float, seconds: float, answers: Sequence[tuple[int, float]]) -> dict[str, float]:
    if others := {status for status, _ in answers} - {_OK, _BUSY}:
        raise RuntimeError(f"unexpected status codes: {others}")
    times = {wanted: [taken * 1e3 for status, taken in answers if status == wanted] for wanted in (_OK, _BUSY)}
    return {
        "offered": asked / seconds,
        "accepted": (asked - busy) / seconds,
        "busy_share": busy / asked,
        "p50_ms": float(np.percentile(times[_OK], 50)),
        "p99_ms": float(np.percentile(times[_OK], 99)),
        "busy_p99_ms": float(np.percentile(times[_BUSY], 99)) if times[_BUSY] else 0.0,
    }


def _measure(name: str, model: BenchmarkModel, scratch: Path) -> list[dict[str, Any]]:
    environment = {"MODEL_FILEPATH": str(model.path), "LABEL_FILEPATH": str(model.labels)}
    body = json.dumps({"data": model.rows(1)}).encode()
    measured = []
    with serving(scratch, environment, command=in_new_interpreter(ONE_PROCESS)) as server:
        metrics = server.client.get("/metrics").text
        limit = float(metrics.partition("\nmodel_server_max_requests_in_flight ")[2].split()[0])
        bench = _Bench(server, body, scratch / "body.json")
        bench.capacity(_CONNECTIONS[name])
        for number, times in itertools.product(range(_ROUNDS), _TIMES):
            ask: Callable[[], dict[str, float]]
            if name == "slow":
                ask = partial(bench.open, times * bench.capacity(_CONNECTIONS[name]))
            else:
                ask = partial(bench.closed, times * _CONNECTIONS[name])
            measured.append({"model": name, "times": times, "round": number, "limit": limit, **ask()})
            sys.stderr.write(f"{measured[-1]}\n")
        for number, (flood, sent) in itertools.product(range(_ROUNDS), _FLOODS.items() if name == "iris" else ()):
            measured.append({"model": flood, "times": 1, "round": number, "limit": limit, **bench.flooded(sent)})
            sys.stderr.write(f"{measured[-1]}\n")
    return measured


def _cells(measured: Sequence[dict[str, Any]], model: str, times: int) -> list[str]:
    rounds = [one for one in measured if (one["model"], one["times"]) == (model, times)]
    figures = {name: median(one[name] for one in rounds) for name in rounds[0] if name != "model"}
    load = {
        "iris": f"iris, {times * _CONNECTIONS['iris']} connections",
        "slow": f"5 ms, {times} x capacity",
        **{flood: f"iris, with a {flood} on {_FLOODING} connections" for flood in _FLOODS},
    }[model]
    return [
        load,
        f"{figures['limit']:.0f}",
        f"{figures['offered']:.0f}",
        f"{figures['accepted']:.0f}",
        f"{figures['busy_share']:.0%}",
        f"{figures['p50_ms']:.0f}",
        f"{figures['p99_ms']:.0f}",
        f"{figures['busy_p99_ms']:.0f}" if figures["busy_share"] else "",
        f"{figures['grown_mb']:.0f}" if "grown_mb" in figures else "",
    ]


def main() -> None:
    """Run the benchmark and write its results."""
    measured = []
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as directory:
        models = benchmark_models(Path(directory), _SLOW_SECONDS)
        for name in _CONNECTIONS:
            scratch = Path(directory) / f"{name}-server"
            scratch.mkdir()
            measured += _measure(name, models[name], scratch)
    write_results("overload", {"seconds": _SECONDS, "rounds": _ROUNDS, "measured": measured})
    head = ["load", "limit", "offered/s", "answered/s", "503", "p50 ms", "p99 ms", "p99 ms of 503", "MB growth"]
    rows = [_cells(measured, name, times) for name in _CONNECTIONS for times in _TIMES]
    rows += [_cells(measured, flood, 1) for flood in _FLOODS]
    write_section("overload", f"Medians of {_ROUNDS} rounds of {_SECONDS} s ({machine()}).\n\n{table(head, rows)}")


if __name__ == "__main__":
    main()
