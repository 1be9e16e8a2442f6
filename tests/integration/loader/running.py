"""Runs the loader as a process, and inspects its results."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.forks import Forks
from tests.support.processes import ROOT, interpreter
from volume.receipt import Receipt

_FROM_OUTSIDE = ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
_SECONDS = 60


@dataclass
class Run:
    """The result of a load."""

    exit_code: int
    output: str
    error: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines that the load logged."""
        return [json.loads(line) for line in self.output.splitlines()]

    @property
    def reason(self) -> str:
        """The reason for the failure, from the JSON line on stderr."""
        failure = json.loads(self.error)
        assert list(failure)[:3] == ["time", "level", "event"]
        assert (failure["level"], failure["event"], failure["exit_code"]) == ("error", "failed", self.exit_code)
        return str(failure["error"])

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the events with this name."""
        return [line for line in self.events if line["event"] == event]


@dataclass
class Target:
    """A target directory, and the settings of all loads into it."""

    directory: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """The model's final path."""
        return self.directory / "model.onnx"

    @property
    def labels(self) -> Path:
        """The label file's final path."""
        return self.directory / "label.json"

    @property
    def termination_log(self) -> Path:
        """The file to which the loader writes the reason for a failure."""
        return self.directory.parent / "termination-log"

    @contextmanager
    def start(self, **settings: object) -> Iterator[subprocess.Popen[str]]:
        """Start a load with the target's settings and these; kill it if it runs at the end of the block."""
        with subprocess.Popen(
            [interpreter("loader"), "-m", "loader"],
            cwd=ROOT,
            env=self._environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def load(self, **settings: object) -> Run:
        """Run a load with the target's settings and these in a fork, and return its result."""
        return run_in_fork(self._environment(settings))

    def _environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in _FROM_OUTSIDE if name in os.environ},
            "MODEL_FILEPATH": str(self.model),
            "LABEL_FILEPATH": str(self.labels),
            "TERMINATION_LOG": str(self.termination_log),
            "LOAD_TIMEOUT_SECONDS": "20",
            **self.settings,
            **{name.upper(): str(value) for name, value in settings.items()},
        }

    def snapshot(self) -> dict[str, tuple[int, ...]]:
        """Return the files in the directory, with metadata that shows changes."""
        return {
            str(path): (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for path in (self.directory, *self.directory.rglob("*"))
            if self.directory.exists() and (status := path.lstat())
        }

    def receipt(self) -> Receipt | None:
        """The published receipt."""
        return Receipt.read(self.directory)

    def assert_holds(self, model: bytes, labels: bytes) -> Receipt:
        """Check that the final paths contain this pair with its receipt."""
        assert self.model.read_bytes() == model
        assert self.labels.read_bytes() == labels
        receipt = self.receipt()
        assert receipt is not None
        receipt.model.check(self.model)
        assert receipt.labels is not None
        receipt.labels.check(self.labels)
        for weights in receipt.external_data:
            weights.check(self.model.parent / weights.name)
        return receipt

    def assert_empty(self) -> None:
        """Check that nothing was published."""
        assert not self.model.exists()
        assert not self.labels.exists()
        assert self.receipt() is None

    def temporaries(self) -> list[Path]:
        """Return the unpublished files in the directory."""
        published = (self.directory / ".current").resolve()
        hidden = [path for path in self.directory.glob(".*") if path.name != ".current" and path.resolve() != published]
        return [*hidden, *self.directory.rglob("*~")]


def run_in_fork(environment: Mapping[str, str], *arguments: str, module: str = "loader") -> Run:
    """Run the module with this environment and these arguments, in a fork of a process that has imported the loader."""
    with TemporaryDirectory() as directory:
        output, error = Path(directory, "output"), Path(directory, "error")
        process = _forks().start(module, arguments, environment, output, error)
        try:
            exit_code = process.wait(_SECONDS)
        finally:
            process.kill()
        return Run(exit_code, output.read_text(), error.read_text())


@cache
def _forks() -> Forks:
    sources = [f"loader.sources.{name}" for name in ("gcs", "https", "local", "oci", "s3")]
    return Forks(interpreter("loader"), os.environ, ROOT, ["loader.job", *sources])


# A permanent failure ends the load between two attempts, or the deadline ends the load within the last attempt.
UNREACHABLE = (6, 8)


def assert_failed(run: Run, exit_code: int | tuple[int, ...], *words: str) -> None:
    """Check that a load ended with a documented exit code and one line that names the cause."""
    assert run.exit_code in (exit_code if isinstance(exit_code, tuple) else (exit_code,)), run
    assert run.error.count("\n") == 1, run
    for word in words:
        assert word in run.reason
