"""Where this project goes beneath BentoML's decorators: how a worker starts, and how the server stops with it."""

import ctypes
import errno
import functools
import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import bentoml
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from bentoml._internal.utils.analytics import usage_stats
from starlette.routing import Route

from model_server.errors import StartError
from model_server.observability.log import configure, fail
from model_server.settings import Settings
from volume.settings import SettingsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from model_server.model.model import Model

T = TypeVar("T")

_END_SECONDS = 5
_PR_SET_PDEATHSIG = 1

usage_stats.do_not_track.cache_clear()  # BentoML's command has asked before it imported us, who have set it

# The gateway counts requests itself, by route instead of raw path; the others cost more than a prediction.
CONFIG: dict[str, Any] = {
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
    "tracing": {"excluded_urls": ".*"},
}


class ModelService(Service[T]):
    """A BentoML service behind the gateway; it loads the model before it serves the first request."""

    def to_asgi(self, is_main: bool = True) -> "ASGIApp":  # noqa: FBT001, FBT002 (BentoML's signature)
        """Return what a worker serves, or end the process with one line on what is wrong with the model."""
        try:
            settings = Settings.read(os.environ)
            log = configure(settings.log_level)
            model = served_model()
        except (SettingsError, StartError) as error:
            _exit(error)
        log.model = model.info["sha256"]
        if server_context.worker_index is not None:
            _end_with_parent()
        # One worker a service: its metrics need no files, which a second server in the same BENTOML_HOME would wipe.
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        # The parent of the workers never serves, and need not pay for what serving imports.
        import uvicorn  # noqa: PLC0415
        from bentoml._internal.server.http.traffic import TimeoutMiddleware  # noqa: PLC0415
        from starlette.applications import Starlette  # noqa: PLC0415
        from uvicorn.config import HTTP_PROTOCOLS  # noqa: PLC0415

        from model_server.http.connection import Connection, Server  # noqa: PLC0415
        from model_server.http.gateway import Gateway  # noqa: PLC0415
        from model_server.http.pages import describe, page_routes  # noqa: PLC0415
        from model_server.observability.metrics import Telemetry  # noqa: PLC0415
        from model_server.observability.observer import Observer  # noqa: PLC0415

        version = (self.bento and self.bento.tag.version) or "not available"
        telemetry = Telemetry(self.name, version, model.info, model.receipt)
        own_routes = [route for mounted, _, _ in self.mount_apps for route in cast("Starlette", mounted).routes]
        document = describe(self.name, own_routes, model)
        pages = page_routes(self.name, document, model, telemetry)
        self.mount_asgi_app(Starlette(routes=pages))
        # Only BentoML's proxy of other programs uses it, and it takes 8 MB.
        sys.meta_path.insert(0, _Lazily("aiohttp"))
        app = cast("Starlette", super().to_asgi(is_main))
        app.router.redirect_slashes = False
        # It swallows an exception until it times out, and holds a timer for every request until then.
        app.user_middleware = [
            entry for entry in app.user_middleware if cast("object", entry.cls) is not TimeoutMiddleware
        ]
        logging.getLogger("uvicorn.access").propagate = False  # it would compose lines that nobody gets to read
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        paths = (route.path for route in (*app.routes, *pages) if isinstance(route, Route))
        routes = [*document["paths"], *paths]
        observer = Observer(telemetry, log, routes, settings.access_log_sample_rate)
        if settings.otel_exporter_otlp_endpoint:
            from model_server.observability.tracing import Tracing  # noqa: PLC0415

            tracing = Tracing(self.name, routes)
            gateway = Gateway(app, model, observer, settings, tracing.step)
            served = tracing.around(gateway)
        else:
            served = gateway = Gateway(app, model, observer, settings)
        # The worker leaves it to uvicorn which protocol to speak.
        HTTP_PROTOCOLS["auto"] = functools.partial(Connection, gateway, settings)  # type: ignore[assignment]
        uvicorn.Server = Server  # type: ignore[misc]
        return served


class _Lazily(MetaPathFinder):
    """Has one module loaded when it is first used, not when it is imported (`importlib.util.LazyLoader`)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


@functools.cache
def served_model() -> "Model":
    """Return the one model of this process, loaded on the first call.

    Raises:
        SettingsError: a setting cannot be used.
        StartError: a file cannot be used.
    """
    from model_server.model.model import Model  # noqa: PLC0415 (as above)

    return Model.load(Settings.read(os.environ))


@bentoml.on_deployment
def supervise() -> None:
    """Before the workers start: end here if a setting is wrong, and see to it that no failed worker is survived.

    BentoML's process manager starts a failed worker again for ever, or, in a container, goes on without one.
    """
    try:
        configure(Settings.read(os.environ).log_level)
    except SettingsError as error:
        _exit(error)
    sys.excepthook = functools.partial(_explain, sys.excepthook)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, _end_with_worker)


def _end_with_worker(_signal: int, _frame: FrameType | None) -> None:
    try:
        # WNOWAIT only looks: the process manager still collects its child.
        child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    if child is None:
        return
    if child.si_code == os.CLD_EXITED:
        if child.si_status:
            _exit(child.si_status)
    elif child.si_status not in (signal.SIGTERM, signal.SIGINT):
        _exit(f"a worker was killed by signal {child.si_status}")


def _end_with_parent() -> None:
    """Have the kernel stop this worker when its process manager is killed: it would serve on, and nobody would know."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _explain(
    otherwise: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        fail("the port is taken by another process: choose another")
        os._exit(1)  # nothing was started, and the process manager's end may wait for ever
    else:
        otherwise(kind, error, trace)


def _exit(reason: object) -> NoReturn:
    """End with a status, or with 1 and a line that says why; the hard way if that takes five seconds."""
    status = reason if isinstance(reason, int) else 1
    if not isinstance(reason, int):
        fail(str(reason))
    killer = threading.Timer(_END_SECONDS, os._exit, [status])
    killer.daemon = True
    killer.start()
    sys.exit(status)
