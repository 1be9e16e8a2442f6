"""Command line of the loader, `python -m loader`."""

import os
import signal

if __name__ == "__main__":
    # Without a handler, PID 1 ignores SIGTERM. This handler covers the slow imports below, until the watchdog starts.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn, get_args

import msgspec

from loader.errors import LoadError, UsageError
from loader.job import Job
from loader.progress import Progress
from loader.settings import TERMINATION_LOG, Settings
from loader.watchdog import watchdog
from volume.log import log_exit, printable
from volume.settings import SettingsError

_DESCRIPTION = """\
Load an ONNX model and its label file into the directory that the service reads.

Both are published atomically: if the load fails, the final paths do not change.
Every flag is also an environment variable in uppercase; the flag takes precedence."""

_PINNED = re.compile("(.+)#sha256=([0-9A-Fa-f]{64})")
_EXAMPLES = """\
examples:
  USE_LOCAL_MODEL=true MODEL_FILEPATH=workdir/model.onnx LABEL_FILEPATH=workdir/label.json python -m loader
  python -m loader --gcs_bucket models --gcs_model_blob iris/1/model.onnx
  python -m loader gs://models/iris/1/model.onnx /mnt/models
  GCS_BUCKET=models GCS_MODEL_BLOB=iris/1/model.onnx python -m loader --dry-run"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load and return the exit code; log a failure as one line on stderr."""
    environment = dict(os.environ)
    progress = Progress(sys.stdout)
    try:
        flags = _parse(_with_underscores(sys.argv[1:] if arguments is None else arguments))
        _set_from_arguments(flags, environment)
        environment |= {name.upper(): value for name, value in flags.items() if value is not None}
        settings = Settings.read(environment)
        progress.level = settings.log_level
        report_stuck = partial(_report, environment, progress)
        with watchdog(settings.load_timeout_seconds, progress.activity, report_stuck) as deadline:
            Job(settings, deadline, progress).run()
    except SettingsError as error:
        _report(environment, progress, UsageError("settings-invalid", f"{error} (--help lists all settings)"))
        return UsageError.exit_code
    except LoadError as error:
        _report(environment, progress, error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 (every error is logged in one line and has a documented exit code)
        _report(environment, progress, LoadError("unexpected", f"{type(error).__name__}: {error}"))
        return LoadError.exit_code
    return 0


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises errors instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _with_underscores(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with underscores in the flag names, as they are declared: --dry-run becomes --dry_run."""
    parted = [argument.partition("=") for argument in arguments]
    return [
        (f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name) + equals + value
        for name, equals, value in parted
    ]


def _parse(arguments: Sequence[str]) -> dict[str, str | None]:
    known, unknown = _parser().parse_known_args(arguments)
    if unknown:
        # Without their values, which may be secrets.
        names = " ".join(name.partition("=")[0] if name.startswith("--") else "…" for name in unknown)
        raise SettingsError(f"unrecognized arguments: {names}")
    return vars(known)


def _set_from_arguments(flags: dict[str, str | None], environment: Mapping[str, str]) -> None:
    """Replace the two arguments by the flags that they stand for; a `#sha256=` at the end of the URI pins the model."""
    uri, directory = flags.pop("uri"), flags.pop("directory")
    if uri is None:
        return
    if directory is None:
        raise SettingsError("there is only one argument: expected a URI and a directory, or only flags")
    pinned = _PINNED.fullmatch(uri)
    settings = {"model_uri": uri, "model_directory": directory}
    if pinned:
        settings |= {"model_uri": pinned[1], "model_sha256": pinned[2]}
    for name, value in settings.items():
        if (flags[name] or environment.get(name.upper()) or value) != value:
            raise SettingsError(f"{name.upper()} is set, but the arguments are another one: expected one of them")
        flags[name] = value


def _report(environment: Mapping[str, str], progress: Progress, error: LoadError) -> None:
    """Log the error as one line, and write it to the file from which the kubelet reads the reason for a failure."""
    termination_log = Path(environment.get("TERMINATION_LOG") or TERMINATION_LOG)
    sentence = " ".join(str(error).split())
    log_exit("loader", sentence, progress.model, code=error.code, exit_code=error.exit_code)
    with suppress(OSError):
        if termination_log.exists():
            termination_log.write_text(f"loader: {printable(sentence)}\n", encoding="utf-8", errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m loader",
        description=_DESCRIPTION,
        epilog=f"{_EXAMPLES}\n\n{_exit_codes()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("uri", nargs="?", help="the model or a prefix, like MODEL_URI; #sha256=… at its end pins it")
    parser.add_argument("directory", nargs="?", help="the directory to load into, like MODEL_DIRECTORY")
    for field in msgspec.structs.fields(Settings):
        kind, meta = get_args(field.type)
        switch = kind is bool
        default = f" (default: {field.default})" if field.default else ""
        parser.add_argument(
            f"--{field.name}",
            metavar="true" if switch else "VALUE",
            nargs="?" if switch else None,
            const="true" if switch else None,
            help=f"{meta.description}{default}",
        )
    return parser


def _exit_codes() -> str:
    descriptions = {kind.exit_code: (kind.__doc__ or "").splitlines()[0] for kind in LoadError.__subclasses__()}
    descriptions |= {
        0: "The model and its label file are at their final paths.",
        LoadError.exit_code: "Any other failure; the message gives the reason.",
    }
    return "\n".join(["exit codes:", *(f"{code:3}  {descriptions[code]}" for code in sorted(descriptions))])


def _discard_unwritten_output() -> None:
    """Discard output that cannot be flushed: Python flushes again at exit, and exits with 120 if that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        _discard_unwritten_output()
