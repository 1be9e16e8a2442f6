"""What a load says while it runs: a bar on a terminal, lines of JSON elsewhere."""

import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

import msgspec
from msgspec import Struct

from volume.log import LogLevel, json_line, printable
from volume.onnx_file import OnnxInfo
from volume.receipt import Receipt

_LINE_SECONDS = 5.0
_BAR_SECONDS = 0.1
_BAR_WIDTH = 30
_BREAK = "\n  "
_UNITS = ("B", "kB", "MB", "GB", "TB")


class PlannedFile(Struct, frozen=True, kw_only=True):
    """One file that a load would bring.

    Attributes:
        uri: where from.
        version: which version of it.
        size: in bytes.
        checksums: those that the source keeps, by name.
        sha256: None while its bytes are not here.
        target: its final path.
        in_place: whether it is there already, and whole.
    """

    uri: str
    version: str
    size: int
    checksums: Mapping[str, str]
    sha256: str | None
    target: str
    in_place: bool


class Plan(Struct, frozen=True, kw_only=True):
    """The effects of a load, as a dry run reports them.

    Attributes:
        artifacts: the model, its label file and its external data.
        all_known: whether those are all; the model names its external data, and perhaps cannot be read yet.
        in_place: whether nothing would change.
        bytes_free: on the target's file system.
        credentials: the kind of those that the source was asked with.
        identity: the model's, as `MODEL_SHA256` takes it; None while a file of it is elsewhere.
        onnx: the model's format; None while it is elsewhere.
        signed_by: the hint of the key that has signed the files; None where no signature is required.
    """

    artifacts: tuple[PlannedFile, ...]
    all_known: bool
    in_place: bool
    bytes_free: int
    credentials: str
    identity: str | None = None
    onnx: OnnxInfo | None = None
    signed_by: str | None = None


class Progress:
    """The story of one load, told to a stream; any thread may add to it.

    A stream that is closed or full, or whose reader has gone, misses some of the story; the load goes on.

    Attributes:
        level: the least level that is told.
        model: the digest of the model, once it is known.
        doing: what the load is at, as the end of a sentence that begins with "while".
        retries: how many there were.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.level = LogLevel.INFO
        self.model = ""
        self.step = "starting"
        self.retries = 0
        self._stream = stream
        self._terminal = stream is not None and stream.isatty()
        self._every = _BAR_SECONDS if self._terminal else _LINE_SECONDS
        self._lock = threading.Lock()
        self._start = self._shown = time.monotonic()
        self._uri = ""
        self._size = self._here = self._found = 0
        self._last_failure = ""

    def activity(self) -> str:
        """Return what is being done, how far it is, and what has gone wrong since the last byte came."""
        here = f" ({self._here} of {self._size} bytes received)" if self._here else ""
        tried = f", last failure: {self._last_failure}" if self._last_failure else ""
        return f"{self.step}{here}{tried}"

    def start(self, uri: str, size: int, version: str) -> None:
        """Say that a file of `size` bytes is being fetched."""
        with self._lock:
            self._uri, self._size, self._here, self._found, self._last_failure = uri, size, 0, 0, ""
            self._start = self._shown = time.monotonic()
            self.step = f"fetching {uri}"
            self._say(f"loading {uri} ({_bytes(size)})", "start", uri=uri, size=size, version=version)

    def resume(self, count: int) -> None:
        """Count bytes that an earlier run had fetched."""
        with self._lock:
            self._here += count
            self._found += count
            self._say(f"resuming after {_bytes(count)}", "resume", uri=self._uri, bytes=count)

    def advance(self, count: int) -> None:
        """Count bytes that have come, or with a negative count, that were thrown away; say so now and then."""
        with self._lock:
            self._here += count
            self._last_failure = ""
            now = time.monotonic()
            if now - self._shown < self._every:
                return
            self._shown = now
            rate = max(self._here - self._found, 0) / max(now - self._start, 1e-9)
            left = (self._size - self._here) / rate if rate else None
            if self._terminal:
                self._draw(rate, left)
            else:
                self._write_line(
                    "progress", uri=self._uri, bytes=self._here, size=self._size,
                    bytes_per_second=round(rate), seconds_left=None if left is None else round(left, 1),
                )  # fmt: skip

    def no_labels(self) -> None:
        """Say that there is no label file."""
        with self._lock:
            self._say(
                "there is no label file next to the model, so the model must contain its class names or predict values",
                "no_label_file",
            )

    def retry(self, reason: str, seconds: float) -> None:
        """Say that something failed and is tried again in `seconds`."""
        with self._lock:
            self.retries += 1
            self._last_failure = reason
            self._say(
                f"{reason}; retrying in {seconds:.1f} s", "retry", LogLevel.WARNING,
                reason=reason, seconds=round(seconds, 3),
            )  # fmt: skip

    def done(self, receipt: Receipt, *, in_place: bool) -> None:
        """Say what stands in the volume now; `in_place` when it stood there before."""
        files = receipt.files
        size = sum(file.size for file in files)
        verb = "already in place" if in_place else "loaded"
        signed_by = receipt.signature.key if receipt.signature else None
        with self._lock:
            self._say(
                f"{verb}: {receipt.model.uri} ({_bytes(size)} in {len(files)} files, identity {receipt.identity}"
                f"{f', signed by {signed_by}' if signed_by else ''})",
                "done", uri=receipt.model.uri, version=receipt.model.version, sha256=receipt.model.sha256,
                files=len(files), bytes=size, seconds=receipt.seconds, attempts=receipt.attempts, in_place=in_place,
                signed_by=signed_by,
            )  # fmt: skip

    def would_load(self, plan: Plan) -> None:
        """Say what a load would bring."""
        model, *_ = plan.artifacts
        files = [
            f"{file.uri} {'is in place at' if file.in_place else 'to'} {file.target} ({_bytes(file.size)}, "
            f"version {file.version}{_checksum(file)})"
            for file in plan.artifacts
        ]
        rest = (
            []
            if plan.all_known
            else ["and its external data files, which are known once the model has been downloaded"]
        )
        verb = "already in place" if plan.in_place else "would load"
        summary = f"{verb}, with {_bytes(plan.bytes_free)} free, credentials: {plan.credentials}"
        facts = {
            "identity": plan.identity,
            "format": plan.onnx and f"IR version {plan.onnx.ir_version}, opsets {plan.onnx.opsets_text}",
            "made by": plan.onnx and plan.onnx.producer,
            "signed by": plan.signed_by,
        }
        rest += [f"{name} {fact}" for name, fact in facts.items() if fact]
        with self._lock:
            self._say(
                [summary, *files, *rest],
                "would_load", uri=model.uri, version=model.version, sha256=model.sha256,
                files=len(plan.artifacts), bytes=sum(file.size for file in plan.artifacts),
                **msgspec.structs.asdict(plan),
            )  # fmt: skip

    def _say(self, said: str | list[str], event: str, level: LogLevel = LogLevel.INFO, **fields: object) -> None:
        """Tell an event: to a terminal in one line or several, to a log with its fields."""
        if not self._terminal:
            self._write_line(event, level, **fields)
        elif level.number >= self.level.number:
            lines = [_printable(line, self._stream) for line in ([said] if isinstance(said, str) else said)]
            self._write(f"\r\x1b[Kloader: {_BREAK.join(lines)}\n")

    def _write_line(self, event: str, level: LogLevel = LogLevel.INFO, **fields: object) -> None:
        if level.number >= self.level.number:
            self._write(json_line(level, event, self.model, **fields))

    def _draw(self, rate: float, left: float | None) -> None:
        if LogLevel.INFO.number < self.level.number:
            return
        share = self._here / self._size if self._size else 1.0
        bar = ("#" * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, ".")
        eta = "?" if left is None else f"{left:.0f} s"
        self._write(f"\r\x1b[K[{bar}] {share:4.0%} of {_bytes(self._size)}, {_bytes(rate)}/s, {eta} left")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a ValueError: the stream is closed, or its encoding lacks a letter
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()


def _printable(sentence: str, stream: TextIO | None) -> str:
    """Return the sentence without what a terminal would obey or cannot show: the name of an object may be anything."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(sentence).encode(encoding, "backslashreplace").decode(encoding)


def _checksum(file: PlannedFile) -> str:
    known = {"sha256": file.sha256} if file.sha256 else file.checksums
    return "".join(f", {name} {value}" for name, value in known.items())


def _bytes(count: float) -> str:
    power = min(int(math.log10(max(count, 1))) // 3, len(_UNITS) - 1)
    return f"{count / 1000**power:.3g} {_UNITS[power]}"
