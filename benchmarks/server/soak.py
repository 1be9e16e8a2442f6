"""Send many good and bad requests to the server in one process, and measure the growth of its memory.

`python -m benchmarks.server.soak [--lengths] [REQUESTS]`
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

from benchmarks.report import write_results
from tests.support.classifiers import save
from tests.support.pipelines import LABELS, WORDS, tokens
from tests.support.processes import IRIS, ONE_PROCESS, Server, in_new_interpreter, serving

_REQUESTS = 1_000_000
_CONNECTIONS = 16
_TOGETHER = 25  # requests per connection
_SAMPLES = 50
_PATHS = 10_000
_MOST_TOKENS = 1000
_MOST_ROWS = 8
_GOOD = b'{"data": [[5.1, 3.5, 1.4, 0.2]]}'
_MANY = b'{"data": [' + b"[5.1, 3.5, 1.4, 0.2], " * 999 + b"[5.1, 3.5, 1.4, 0.2]]}"


def _post(body: bytes, head: bytes = b"") -> bytes:
    return b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), head, body)


def _get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path


def _mixture() -> Iterator[list[tuple[bytes, int]]]:
    """Yield the requests of one connection, each with its expected status."""
    paths = itertools.cycle(_get(b"/unknown/%d" % number) for number in range(_PATHS))
    last = itertools.cycle(
        [
            (b"nonsense\r\n\r\n", 400),
            (_post(_GOOD), 200),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
            (_post(_GOOD), 200),
            (_post(_GOOD)[:-5], 0),  # the client disconnects
            (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        ]
    )
    while True:
        yield [
            *((_post(_GOOD), 200) for _ in range(_TOGETHER - 9)),
            (_post(b"{"), 400),
            (_post(b'{"data": [[1, 2, 3]]}'), 400),
            (_post(_GOOD, b"Content-Encoding: gzip\r\n"), 415),
            (_post(_MANY), 200),
            (next(paths), 404),
            (next(paths), 404),
            (_get(b"/metadata"), 200),
            (_get(b"/predict"), 405),
            next(last),
        ]


def _lengths() -> Iterator[list[tuple[bytes, int]]]:
    """Yield the same for the model of tokens: requests with rows of ever new lengths."""
    chance = np.random.default_rng(0)
    while True:
        requests = []
        for _ in range(_TOGETHER):
            length, count = int(chance.integers(1, _MOST_TOKENS)), int(chance.integers(1, _MOST_ROWS))
            row = {"input_ids": chance.integers(0, WORDS, length).tolist(), "attention_mask": [1] * length}
            requests.append((_post(json.dumps({"data": [row] * count}).encode()), 200))
        yield requests


async def _exchange(port: int, requests: list[tuple[bytes, int]], statuses: Counter[str]) -> None:
    """Send the requests one after the other, and count the answers by status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for sent, expected in requests:
            writer.write(sent)
            if not expected:
                break
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            statuses[str(status) if status == expected else f"{status}, expected {expected}"] += 1
    finally:
        writer.close()


async def _send(port: int, requests: int, mixture: Iterator[list[tuple[bytes, int]]], statuses: Counter[str]) -> None:
    async def client(exchanges: int) -> None:
        for _ in range(exchanges):
            await _exchange(port, next(mixture), statuses)

    await asyncio.gather(*(client(requests // _TOGETHER // _CONNECTIONS) for _ in range(_CONNECTIONS)))


def _sample(server: Server, sent: int, started: float) -> dict[str, float]:
    process = Path(f"/proc/{server.process.pid}")
    rollup = (process / "smaps_rollup").read_text()
    return {
        "requests": sent,
        "seconds": round(time.monotonic() - started, 1),
        "pss_kib": int(rollup.partition("Pss:")[2].split()[0]),
        "descriptors": len(list((process / "fd").iterdir())),
        "series": sum(not line.startswith("#") for line in server.client.get("/metrics").text.splitlines()),
    }


def main() -> None:
    """Run the benchmark, print the growth, and write the samples to `results/soak.json` or `soak-lengths.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server.soak", description=__doc__)
    parser.add_argument("requests", type=int, nargs="?", default=_REQUESTS, help="number of requests")
    parser.add_argument("--lengths", action="store_true", help="send rows of ever new lengths to a model of tokens")
    arguments = parser.parse_args()
    requests = arguments.requests
    each = max(requests // _SAMPLES, _TOGETHER * _CONNECTIONS)
    statuses: Counter[str] = Counter()
    samples = []
    command = in_new_interpreter(ONE_PROCESS)  # a fork would share most of its memory with its parent
    with tempfile.TemporaryDirectory() as home, serving(*_served(Path(home), arguments), command=command) as server:
        port = httpx.URL(server.url).port or 0
        mixture = _lengths() if arguments.lengths else _mixture()
        server.client.get("/metrics")  # creates its own series, so that all samples have the same number
        started = time.monotonic()
        for _ in range(requests // each):
            asyncio.run(_send(port, each, mixture, statuses))
            samples.append(_sample(server, sum(statuses.values()), started))
            print(samples[-1], flush=True)
    # Caches and pools fill during the first fifth.
    later = samples[len(samples) // 5 :]
    slope, _ = np.polyfit([one["requests"] for one in later], [one["pss_kib"] for one in later], 1)
    result = {
        "requests": sum(statuses.values()),
        "statuses": dict(statuses),
        "pss_bytes_per_request": round(float(slope) * 1024, 3),
        "samples": samples,
    }
    write_results("soak-lengths" if arguments.lengths else "soak", result)
    print({name: value for name, value in result.items() if name != "samples"})
    if len({one["series"] for one in samples}) > 1:
        sys.exit("the number of metric series has grown")


def _served(home: Path, arguments: argparse.Namespace) -> tuple[Path, dict[str, str]]:
    """Return a directory for the server's files, and the variables for its model."""
    if not arguments.lengths:
        return home, IRIS
    model, labels = save(tokens(), home, LABELS)
    return home, {"MODEL_FILEPATH": str(model), "LABEL_FILEPATH": str(labels)}


if __name__ == "__main__":
    main()
