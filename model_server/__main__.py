"""`python -m model_server`: serves in this one process, checks whether a model can be served, or prints versions."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from model_server.exiting import exit_within

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_BACKLOG = 2048
_EXIT_SECONDS = 2


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command of the service, and exit."""
    parser = argparse.ArgumentParser(prog="python -m model_server", description="The model server.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    _add_serve(commands)
    _add_check(commands)
    _add_version(commands)
    words = list(sys.argv[1:] if arguments is None else arguments)
    # As in BentoML's own images, options without a command belong to `serve`.
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words.insert(0, "serve")
    options = parser.parse_args(words)
    if options.command == "check":
        from model_server.check import check  # noqa: PLC0415 (`serve` must set its signal handlers before such imports)

        sys.exit(check(options.model, options.labels, as_json=options.json, seconds=options.timeout))
    if options.command == "version":
        from model_server.model.supported import describe_version  # noqa: PLC0415 (not needed by the other commands)

        print(describe_version(as_json=options.json))
        sys.exit()
    serve(options.bento, options.host, options.port, options.timeout_graceful_shutdown)


def _add_serve(commands: "_Commands") -> None:
    command = commands.add_parser(
        "serve",
        help="serve the model in this one process",
        description="Serve the model at MODEL_FILEPATH in this one process, until SIGTERM or SIGINT. Then answer the "
        "accepted requests, within the graceful shutdown timeout, and exit with 0. `bentoml serve` serves the same "
        "routes with a process manager and a worker.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,  # BentoML's --timeout is not our --timeout-graceful-shutdown
    )
    command.add_argument(
        "bento",
        nargs="?",
        default=os.environ.get("BENTO_PATH", "."),
        help="the bento, or the directory that contains service.py; BENTO_PATH sets the default",
    )
    command.add_argument("--host", default="0.0.0.0", help="the address to listen on")  # noqa: S104 (as `bentoml serve`)
    command.add_argument("--port", type=int, default=3000, help="the port to listen on")
    command.add_argument(
        "--timeout-graceful-shutdown",
        type=int,
        default=20,  # with the 10 s of preStop, less than the pod's terminationGracePeriodSeconds
        metavar="SECONDS",
        help="how long the requests in flight may take after SIGTERM or SIGINT",
    )


def _add_check(commands: "_Commands") -> None:
    command = commands.add_parser(
        "check",
        help="check whether a model can be served",
        description="Check whether the service can serve a model. Print its inputs and outputs, its metadata, a "
        "request with its response, and the time of an inference; or the reason why not, and the fix.",
        epilog="exit codes: 0 the model can be served, 1 it cannot, 2 wrong usage",
        allow_abbrev=False,
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="the ONNX file, or a directory with one")
    command.add_argument(
        "labels",
        type=Path,
        nargs="?",
        metavar="LABELS",
        help="its label file (default: label.json next to the model; without one, made-up names)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="limit for the whole check (default: %(default)s)"
    )


def _add_version(commands: "_Commands") -> None:
    command = commands.add_parser(
        "version",
        help="print the versions of ONNX Runtime and BentoML, and the newest ONNX format that can be served",
        description="Print the versions of ONNX Runtime and BentoML, and the newest ONNX format that can be served, in "
        "the form of the loader's MAX_IR_VERSION and MAX_OPSET.",
    )
    command.add_argument("--json", action="store_true", help="print it as one JSON document")


def serve(bento: str, host: str, port: int, timeout_graceful_shutdown: int) -> NoReturn:
    """Serve until SIGTERM or SIGINT, then exit with 0; exit with another status if it cannot serve.

    Args:
        bento: a bento, or the directory that contains `service.py`.
        host: the address to listen on.
        port: the port to listen on.
        timeout_graceful_shutdown: seconds after the signal within which requests in flight must complete.
    """
    # uvicorn handles these signals by draining, and then raises them again.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    # These imports take long, so SIGTERM needs its handler first.
    from model_server.adapters import bento as adapter  # noqa: PLC0415
    from model_server.observability.log import log_failure  # noqa: PLC0415

    adapter.configure_logging()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        log_failure(f"cannot listen on {host} port {port}: {error}", "port-unusable")
        sys.exit(1)
    adapter.serve(bento, listener, timeout_graceful_shutdown)
    log_failure("the server stopped without SIGTERM or SIGINT; its log says why", "server-ended")
    sys.exit(1)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    exit_within(0, _EXIT_SECONDS)


if __name__ == "__main__":
    main()
