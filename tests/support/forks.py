"""Processes that start quickly: forks of one process that has imported their modules."""

import atexit
import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Fork:
    """A forked process, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, forks: "Forks", pid: int) -> None:
        self._forks = forks
        self._ended = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: the process still runs after `timeout` seconds.
        """
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            self.returncode = self._forks.ask({"wait": self.pid})
            os.close(self._ended)
        return self.returncode


class Forks:
    """A process that forks, and ends with this one.

    Args:
        python: its interpreter.
        environment: its environment, which the modules see when they are imported.
        directory: its working directory, the root of the repository.
        modules: the modules that it imports first.
    """

    def __init__(self, python: str, environment: Mapping[str, str], directory: Path, modules: Sequence[str]) -> None:
        command = [python, "-m", "tests.support.forking", *modules]
        self._directory = directory
        self._process = subprocess.Popen(
            command, cwd=directory, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self._process.communicate)  # closes its stdin, which ends it

    def start(  # noqa: PLR0917
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: Path,
        error: Path,
        directory: Path | None = None,
    ) -> Fork:
        """Run a module in a directory, by default that of this process; append its output and errors to the files."""
        request = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "directory": str(directory or self._directory),
            "output": str(output),
            "error": str(error),
        }
        return Fork(self, self.ask(request))

    def ask(self, request: Mapping[str, object]) -> int:
        """Send a request and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())
