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

from model_server.ending import end

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_BACKLOG = 2048
_END_SECONDS = 2


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command of the service, and exit."""
    parser = argparse.ArgumentParser(prog="python -m model_server", description="The model server.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    _add_serve(commands)
    _add_check(commands)
    _add_version(commands)
    words = list(sys.argv[1:] if arguments is None else arguments)
    # As in BentoML's own images, options without a command are those of `serve`.
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words.insert(0, "serve")
    options = parser.parse_args(words)
    if options.command == "check":
        from model_server.check import check  # noqa: PLC0415 (`serve` has yet to set its signal handlers)

        sys.exit(check(options.model, options.labels, as_json=options.json, seconds=options.timeout))
    if options.command == "version":
        from model_server.model.supported import describe_version  # noqa: PLC0415 (likewise)

        print(describe_version(as_json=options.json))
        sys.exit()
    serve(options.bento, options.host, options.port, options.timeout_graceful_shutdown)


def _add_serve(commands: "_Commands") -> None:
    command = commands.add_parser(
        "serve",
        help="serve the model in this one process",
        description="Serve the model at MODEL_FILEPATH in this one process, until SIGTERM or SIGINT. What it has "
        "accepted it answers, within the time for that, and exits with 0. `bentoml serve` serves the same from a "
        "process manager and a worker.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument(
        "bento",
        nargs="?",
        default=os.environ.get("BENTO_PATH", "."),
        help="the bento, or the directory of service.py; BENTO_PATH sets the default",
    )
    command.add_argument("--host", default="0.0.0.0", help="the address to listen on")  # noqa: S104 (as `bentoml serve`)
    command.add_argument("--port", type=int, default=3000, help="the port to listen on")
    command.add_argument(
        "--timeout-graceful-shutdown",
        type=int,
        default=20,  # with the 10 s of preStop, less than the pod's terminationGracePeriodSeconds
        metavar="SECONDS",
        help="how long requests may take to end once the server was told to stop",
    )


def _add_check(commands: "_Commands") -> None:
    command = commands.add_parser(
        "check",
        help="say whether a model can be served",
        description="Say whether the service can serve a model: what it takes and gives, its metadata, a request and "
        "its answer, and how long an inference takes; or else why not, and what to change.",
        epilog="exit codes: 0 it can be served, 1 it cannot, 2 usage",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="the ONNX file")
    command.add_argument(
        "labels",
        type=Path,
        nargs="?",
        metavar="LABELS",
        help="its label file (default: label.json beside it; if there is none, names are made up)",
    )
    command.add_argument("--json", action="store_true", help="say it as one JSON document")
    command.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="how long that may take (default: %(default)s)"
    )


def _add_version(commands: "_Commands") -> None:
    command = commands.add_parser(
        "version",
        help="print the versions of the parts, and the newest ONNX format that can be served",
        description="Print the versions of ONNX Runtime and BentoML, and the newest ONNX format that can be served, as "
        "the loader's MAX_IR_VERSION and MAX_OPSET take it.",
    )
    command.add_argument("--json", action="store_true", help="print it as one JSON document")


def serve(bento: str, host: str, port: int, timeout_graceful_shutdown: int) -> NoReturn:
    """Serve until SIGTERM or SIGINT, then exit with 0; with anything else when it cannot.

    Args:
        bento: a bento, or the directory of `service.py`.
        host: the address to listen on.
        port: the port to listen on.
        timeout_graceful_shutdown: seconds that requests have to end then.
    """
    # uvicorn drains on them, and then raises them again.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    # Imported only now that SIGTERM has a handler.
    from model_server.adapters import bento as adapter  # noqa: PLC0415
    from model_server.observability.log import fail  # noqa: PLC0415

    adapter.configure_logging()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        fail(f"cannot listen on {host} port {port}: {error}", "port-unusable")
        sys.exit(1)
    adapter.serve(bento, listener, timeout_graceful_shutdown)
    fail("the server ended without being told to; its log says why", "server-ended")
    sys.exit(1)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    end(0, _END_SECONDS)


if __name__ == "__main__":
    main()
