"""Progress output of a load: a progress bar on a terminal, JSON lines elsewhere."""

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
    """One file that a load would publish.

    Attributes:
        uri: its source.
        version: its version at the source.
        size: its size in bytes.
        checksums: the checksums that the source provides, by name.
        sha256: its SHA-256; None if the file is not on this machine.
        target: its final path.
        in_place: whether it is already published and intact.
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
        all_known: whether the list is complete: the external data is known once the model can be read.
        in_place: whether nothing would change.
        bytes_free: the free bytes on the target's file system.
        credentials: the kind of credentials that the source uses.
        identity: the model's identity, as for `MODEL_SHA256`; None if one of its files is not on this machine.
        onnx: the model's format; None if the model is not on this machine.
        signed_by: the sha256 of the public key that signed the files; None if no signature is required.
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
    """Progress reporter for one load. Thread-safe.

    Errors of the stream are ignored, so that they cannot stop the load.

    Attributes:
        level: the minimum level of logged events.
        model: the identity of the model; empty until it is known.
        step: the current step, phrased to follow "while".
        retries: the number of retries.
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
        self._size = self._received = self._resumed = 0
        self._last_failure = ""

    def activity(self) -> str:
        """Return the current step, its progress, and the last failure since data was last received."""
        received = f" ({self._received} of {self._size} bytes received)" if self._received else ""
        failure = f", last failure: {self._last_failure}" if self._last_failure else ""
        return f"{self.step}{received}{failure}"

    def start(self, uri: str, size: int, version: str) -> None:
        """Log the start of the download of a file of `size` bytes."""
        with self._lock:
            self._uri, self._size, self._received, self._resumed, self._last_failure = uri, size, 0, 0, ""
            self._start = self._shown = time.monotonic()
            self.step = f"fetching {uri}"
            self._emit(f"loading {uri} ({_bytes(size)})", "start", uri=uri, size=size, version=version)

    def resume(self, count: int) -> None:
        """Count bytes that an earlier run fetched, and log them."""
        with self._lock:
            self._received += count
            self._resumed += count
            self._emit(f"resuming after {_bytes(count)}", "resume", uri=self._uri, bytes=count)

    def advance(self, count: int) -> None:
        """Count received bytes, or discarded ones if negative, and report the progress periodically."""
        with self._lock:
            self._received += count
            self._last_failure = ""
            now = time.monotonic()
            if now - self._shown < self._every:
                return
            self._shown = now
            rate = max(self._received - self._resumed, 0) / max(now - self._start, 1e-9)
            left = (self._size - self._received) / rate if rate else None
            if self._terminal:
                self._draw(rate, left)
            else:
                self._write_line(
                    "progress", uri=self._uri, bytes=self._received, size=self._size,
                    bytes_per_second=round(rate), seconds_left=None if left is None else round(left, 1),
                )  # fmt: skip

    def no_labels(self) -> None:
        """Log that there is no label file."""
        with self._lock:
            self._emit(
                "there is no label file next to the model, so the model must contain its class names or predict values",
                "no_label_file",
            )

    def retry(self, reason: str, seconds: float) -> None:
        """Log a failure and its retry in `seconds`."""
        with self._lock:
            self.retries += 1
            self._last_failure = reason
            self._emit(
                f"{reason}; retrying in {seconds:.1f} s", "retry", LogLevel.WARNING,
                reason=reason, seconds=round(seconds, 3),
            )  # fmt: skip

    def done(self, receipt: Receipt, *, in_place: bool) -> None:
        """Log the published files; `in_place` if they were already published."""
        files = receipt.files
        size = sum(file.size for file in files)
        verb = "already in place" if in_place else "loaded"
        signed_by = receipt.signature.key if receipt.signature else None
        with self._lock:
            self._emit(
                f"{verb}: {receipt.model.uri} ({_bytes(size)} in {len(files)} files, identity {receipt.identity}"
                f"{f', signed by {signed_by}' if signed_by else ''})",
                "done", uri=receipt.model.uri, version=receipt.model.version, sha256=receipt.model.sha256,
                files=len(files), bytes=size, seconds=receipt.seconds, attempts=receipt.attempts, in_place=in_place,
                signed_by=signed_by,
            )  # fmt: skip

    def would_load(self, plan: Plan) -> None:
        """Log the plan of a dry run."""
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
            self._emit(
                [summary, *files, *rest],
                "would_load", uri=model.uri, version=model.version, sha256=model.sha256,
                files=len(plan.artifacts), bytes=sum(file.size for file in plan.artifacts),
                **msgspec.structs.asdict(plan),
            )  # fmt: skip

    def _emit(self, text: str | list[str], event: str, level: LogLevel = LogLevel.INFO, **fields: object) -> None:
        """Report an event: as text on a terminal, otherwise as a JSON line with its fields."""
        if not self._terminal:
            self._write_line(event, level, **fields)
        elif level.number >= self.level.number:
            lines = [_printable(line, self._stream) for line in ([text] if isinstance(text, str) else text)]
            self._write(f"\r\x1b[Kloader: {_BREAK.join(lines)}\n")

    def _write_line(self, event: str, level: LogLevel = LogLevel.INFO, **fields: object) -> None:
        if level.number >= self.level.number:
            self._write(json_line(level, event, self.model, **fields))

    def _draw(self, rate: float, left: float | None) -> None:
        if LogLevel.INFO.number < self.level.number:
            return
        share = self._received / self._size if self._size else 1.0
        bar = ("#" * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, ".")
        eta = "?" if left is None else f"{left:.0f} s"
        self._write(f"\r\x1b[K[{bar}] {share:4.0%} of {_bytes(self._size)}, {_bytes(rate)}/s, {eta} left")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed, or its encoding lacks a character
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()


def _printable(sentence: str, stream: TextIO | None) -> str:
    """Return the sentence with escapes for control characters and for characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(sentence).encode(encoding, "backslashreplace").decode(encoding)


def _checksum(file: PlannedFile) -> str:
    known = {"sha256": file.sha256} if file.sha256 else file.checksums
    return "".join(f", {name} {value}" for name, value in known.items())


def _bytes(count: float) -> str:
    power = min(int(math.log10(max(count, 1))) // 3, len(_UNITS) - 1)
    return f"{count / 1000**power:.3g} {_UNITS[power]}"
