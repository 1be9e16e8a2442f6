"""Private names of BentoML: how a service is made, started and stopped, and what its application consists of."""

import ctypes
import errno
import functools
import gc
import importlib.util
import inspect
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, get_type_hints

import bentoml
import msgspec
import pydantic
from _bentoml_sdk import Service
from bentoml._internal.log import SERVER_LOGGING_CONFIG
from bentoml._internal.utils.analytics import usage_stats
from bentoml.exceptions import BentoMLConfigException, InvalidArgument

from model_server.api import ClassNames, Labels, RowsSchema
from model_server.ending import end
from model_server.errors import StartError
from model_server.model.loading import SlowModelError, load_model
from model_server.model.rows import InvalidRowsError
from model_server.observability.log import Log, configure, fail, logger
from model_server.protocols.json_body import sentence_of
from model_server.settings import Settings
from volume.log import LogLevel
from volume.settings import SettingsError

if TYPE_CHECKING:
    from _bentoml_sdk.method import APIMethod
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from model_server.http.endpoint import RowsMethod
    from model_server.http.server import PredictionServer
    from model_server.model.model import Model

T = TypeVar("T")

_END_SECONDS = 5
_PR_SET_PDEATHSIG = 1
# What every BentoML application has, and no request for a prediction needs.
_PLAIN_MIDDLEWARE = frozenset({"OpenTelemetryMiddleware", "Timeout", "ContextMiddleware"})

usage_stats.do_not_track.cache_clear()  # BentoML's command has asked before it imported us, who have set it


class ModelService(Service[T]):
    """A BentoML service whose methods that take rows are answered by our own code, for a fraction of the CPU.

    It loads the model before it serves the first request.
    """

    def __attrs_post_init__(self) -> None:
        """Adapt the class that was declared."""
        if (workers := self.config.get("workers", 1)) != 1:
            raise BentoMLConfigException(f"workers is {workers}; expected 1: what is counted is counted by one process")
        tracing = self.config.get("tracing")
        self._shows_metrics = _take_metrics_setting(self.config)
        self._is_traced_by_bento = tracing is not None
        if not self._is_traced_by_bento:
            self.config["tracing"] = {"excluded_urls": ".*"}
        access: dict[str, Any] = cast("dict[str, Any]", self.config.setdefault("logging", {})).setdefault("access", {})
        access.setdefault("enabled", False)
        super().__attrs_post_init__()
        self._rows_functions = {
            name: _adapt(name, method, parameter)
            for name, method in self.apis.items()
            if (parameter := _rows_parameter(method.func))
        }
        self._bind: Callable[[T], None] | None = None
        self.http_protocol: Callable[..., Any] | None = None  # once it is an application

    def __call__(self) -> T:
        """Return an instance; in a server, it is the one that answers."""
        instance = super().__call__()
        bind, self._bind = self._bind, None
        if bind:
            try:
                bind(instance)
            except StartError as error:
                fail(str(error), error.code)
                os._exit(1)  # uvicorn would log a traceback first
        return instance

    def schema(self) -> dict[str, Any]:
        """Return what BentoML's clients read: on the wire, answers are wrapped."""
        schema = super().schema()
        for route in schema["routes"]:
            if route["name"] in self._rows_functions:
                route["output"] = {"type": "object", "properties": {"prediction": {}}, "required": ["prediction"]}
        return schema

    def to_asgi(self, is_main: bool = True) -> "ASGIApp":  # noqa: FBT001, FBT002 (BentoML's signature)
        """Return what a worker serves, or end the process with one line on what is wrong with the model."""
        try:
            settings = Settings.read(os.environ)
            log = configure_logging(settings.log_level)
            served_model()
        except (SettingsError, StartError) as error:
            _exit(error)
        if bentoml.server_context.worker_index is not None:
            _end_with_parent()
        if not is_main:
            return super().to_asgi(is_main)  # other services of the user's ask it, in BentoML's own way
        # One worker a service: its metrics need no files, which a second server in the same BENTOML_HOME would wipe.
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        # The parent of the workers never serves, and need not pay for what serving imports.
        from starlette.applications import Starlette  # noqa: PLC0415

        from model_server.adapters.uvicorn import protocol_factory, serve_by_default  # noqa: PLC0415
        from model_server.http.asgi import Timeout  # noqa: PLC0415
        from model_server.http.server import PredictionServer  # noqa: PLC0415

        if timeout := (self.config.get("traffic") or {}).get("timeout"):
            settings = msgspec.structs.replace(
                settings, request_timeout_seconds=min(timeout, settings.request_timeout_seconds)
            )
        version = (self.bento and self.bento.tag.version) or "not available"
        server = PredictionServer(self.name, version, settings, log, shows_metrics=self._shows_metrics)
        mounted = [(application, path) for application, path, _ in self.mount_apps]
        self.mount_asgi_app(Starlette(routes=server.pages.routes))
        # Only BentoML's proxy of other programs uses it, and it takes 8 MB.
        sys.meta_path.insert(0, _Lazily("aiohttp"))
        app = cast("Starlette", super().to_asgi(is_main))
        for entry in app.user_middleware:
            if _name_of(entry) == "TimeoutMiddleware":
                entry.cls = Timeout  # type: ignore[assignment]
        app.router.default = _no_route(app.router.default)
        logging.getLogger("uvicorn.access").propagate = False  # it would compose lines that nobody gets to read
        self._bind = functools.partial(self._answer, server, app, mounted)
        self.http_protocol = protocol_factory(server.connections, takes_websockets=_may_take_websockets(mounted))
        if bentoml.server_context.worker_index is not None:
            serve_by_default(self.http_protocol)
        is_passed = self._is_traced_by_bento or not _PLAIN_MIDDLEWARE.issuperset(map(_name_of, app.user_middleware))
        probes = [self._prefixed(path) for path in ("/livez", "/readyz", "/healthz", "/health", "/metrics")]
        return server.stand_before(app, probes, is_passed=is_passed)

    def _answer(
        self, server: "PredictionServer", app: "Starlette", mounted: "list[tuple[ASGIApp, str]]", instance: T
    ) -> None:
        """Have an instance answer."""
        from starlette.applications import Starlette  # noqa: PLC0415
        from starlette.routing import Route  # noqa: PLC0415

        from model_server.http.documents import Mounted, describe  # noqa: PLC0415
        from model_server.model.model import Model  # noqa: PLC0415

        model = getattr(instance, "model", None)
        if not isinstance(model, Model):
            raise StartError(
                "service-model",
                f"{self.inner.__name__}.model is {type(model).__name__}; expected a model_server Model",
                "set it to served_model() or Model.load(...)",
            )
        methods = [self._rows_method(name, instance) for name in self._rows_functions]
        document = describe(
            self.name,
            [Mounted(path, found.routes if isinstance(found, Starlette) else None) for found, path in mounted],
            self._other_apis(),
        )
        routes = [route.path for route in (*app.routes, *server.pages.routes) if isinstance(route, Route)]
        for_classes = {method.route for method in methods if method.returns is Labels}
        for found, path in mounted:
            if isinstance(found, Starlette):
                for_classes.update(_paths_of_class_names(found.routes, path.rstrip("/")))
        applications = server.serve(model, methods, document, routes, for_classes)
        for route in app.routes:
            if isinstance(route, Route) and route.path in applications and "POST" in (route.methods or ()):
                route.app = applications[route.path]
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    def _rows_method(self, name: str, instance: T) -> "RowsMethod":
        """Return what answers a declared method that takes rows."""
        from model_server.http.endpoint import RowsMethod  # noqa: PLC0415

        method, function = self.apis[name], self._rows_functions[name]
        parameter = _rows_parameter(function)
        others = {field: (info.annotation, info) for field, info in method.input_spec.model_fields.items()}
        del others[parameter]
        bound = functools.partial(function, instance)
        return RowsMethod(
            name=name,
            route=self._prefixed(method.route),
            parameter=parameter,
            call=bound if next(iter(inspect.signature(bound).parameters)) == parameter else _by_name(bound, parameter),
            is_async=inspect.iscoroutinefunction(inspect.unwrap(function)),
            parameters=_model_of(name, others) if others else None,
            returns=_return_of(function),
            summary=(inspect.getdoc(function) or name).partition("\n")[0],
        )

    def _other_apis(self) -> dict[str, Any]:
        """Return BentoML's own document of the methods that take no rows."""
        others = [api.route for name, api in self.apis.items() if name not in self._rows_functions]
        if not others:
            return {}
        document: dict[str, Any] = json.loads(json.dumps(self.openapi_spec.asdict()))  # its statuses are numbers
        paths = {
            self._prefixed(path): operations
            for path, operations in document["paths"].items()
            if any(path == route or path.startswith(f"{route}/") for route in others)
        }
        return {"paths": paths, "components": document.get("components", {})}

    def _prefixed(self, path: str) -> str:
        return self.path_prefix.rstrip("/") + path if self.path_prefix else path


def _name_of(middleware: object) -> str:
    return getattr(middleware.cls, "__name__", "")  # type: ignore[attr-defined]


def configure_logging(level: LogLevel = LogLevel.INFO) -> Log:
    """Send everything that this process logs to its log; BentoML configures it more than once, and does the same."""
    return configure(level, SERVER_LOGGING_CONFIG)


def _take_metrics_setting(config: Mapping[str, Any]) -> bool:
    """Switch BentoML's own metrics off, and return whether the service has any: they are ours, under its names."""
    metrics = dict(config.get("metrics") or {})
    is_wanted = bool(metrics.pop("enabled", True))
    if metrics:
        raise BentoMLConfigException(
            f"the service's metrics have the settings {', '.join(metrics)}; expected only enabled: names and buckets "
            "are fixed"
        )
    cast("dict[str, Any]", config)["metrics"] = {"enabled": False}
    return is_wanted


def _rows_parameter(function: Callable[..., Any]) -> str:
    """Return the name of the parameter that takes rows; empty if there is none."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return ""
    marked = (
        name
        for name, hint in hints.items()
        if name != "return" and any(isinstance(item, RowsSchema) for item in getattr(hint, "__metadata__", ()))
    )
    return next(marked, "")


def _adapt(name: str, method: "APIMethod[..., Any]", parameter: str) -> Callable[..., Any]:
    """Have a method check the rows of callers in this process, and return the function that was declared."""
    function: Callable[..., Any] = getattr(method.func, "rows_function", method.func)
    if method.is_stream or method.is_task or method.ctx_param:
        raise BentoMLConfigException(
            f"{name} takes rows, so it cannot be a stream or a task, nor take the context: declare a method of its own "
            "for that"
        )
    signature = inspect.signature(function)

    def checked(instance: Any, *args: Any, **kwargs: Any) -> inspect.BoundArguments:  # noqa: ANN401 (a method's)
        arguments = signature.bind(instance, *args, **kwargs)
        try:
            arguments.arguments[parameter] = instance.model.spec.rows(arguments.arguments[parameter])
        except InvalidRowsError as error:
            raise InvalidArgument(sentence_of(error, parameter)) from error
        return arguments

    if inspect.iscoroutinefunction(inspect.unwrap(function)):

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (a method's)
            arguments = checked(*args, **kwargs)
            return await function(*arguments.args, **arguments.kwargs)
    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (a method's)
            arguments = checked(*args, **kwargs)
            return function(*arguments.args, **arguments.kwargs)

    call.rows_function = function  # type: ignore[attr-defined]
    method.func = call
    return function


def _model_of(name: str, fields: Mapping[str, Any]) -> type[pydantic.BaseModel]:
    return pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)


def _by_name(function: Callable[..., Any], parameter: str) -> Callable[..., Any]:
    return lambda rows, **others: function(**{parameter: rows}, **others)


def _no_route(otherwise: "ASGIApp") -> "ASGIApp":
    """Return what answers where no route matches."""

    async def answer(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http":
            from model_server.http.asgi import answer_not_found  # noqa: PLC0415 (as above)

            await answer_not_found(scope, receive, send)
        else:
            await otherwise(scope, receive, send)

    return answer


def _paths_of_class_names(routes: "Iterable[BaseRoute]", prefix: str) -> Iterator[str]:
    """Yield the paths of the routes of a mounted application that are declared to return class names."""
    for route in routes:
        # Newer versions of FastAPI keep the routes of an included router, as BentoML makes one, in that router.
        if included := getattr(route, "original_router", None):
            yield from _paths_of_class_names(included.routes, prefix)
        elif _return_of(getattr(route, "endpoint", None)) is ClassNames:
            yield prefix + route.path  # type: ignore[attr-defined]


def _return_of(function: Any) -> Any:  # noqa: ANN401 (any annotation of anything)
    try:
        return get_type_hints(function, include_extras=True).get("return")
    except (NameError, TypeError):
        return None


def _may_take_websockets(mounted: "list[tuple[ASGIApp, str]]") -> bool:
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.routing import Mount, WebSocketRoute  # noqa: PLC0415

    return any(
        not isinstance(app, Starlette) or any(isinstance(route, Mount | WebSocketRoute) for route in app.routes)
        for app, _ in mounted
    )


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
    settings = Settings.read(os.environ)

    def say(seconds: float) -> None:
        fields = {"seconds": seconds, "timeout": settings.start_timeout_seconds, "path": str(settings.model_filepath)}
        logger.warning("waiting_for_model", extra={"fields": fields})

    return load_model(settings, say)


@bentoml.on_deployment
def supervise() -> None:
    """Before the workers start: end here if a setting is wrong, and see to it that no failed worker is survived.

    BentoML's process manager starts a failed worker again for ever, or, in a container, goes on without one.
    """
    try:
        configure_logging(Settings.read(os.environ).log_level)
    except SettingsError as error:
        _exit(error)
    if _is_alone:
        return
    sys.excepthook = functools.partial(_explain, sys.excepthook)
    if threading.current_thread() is not threading.main_thread():
        return
    if "--reload" not in sys.argv:  # else a worker that fails is started again once its code is mended
        signal.signal(signal.SIGCHLD, _end_with_worker)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        from circus.sighandler import SysHandler  # noqa: PLC0415 (only the parent of workers has it)

        SysHandler.handle_hup = SysHandler.handle_term  # else the server outlives its terminal


_is_alone = False


def serve(bento: str, listener: socket.socket, timeout_graceful_shutdown: int) -> None:
    """Serve in this one process, without BentoML's process manager, until SIGTERM or SIGINT.

    Args:
        bento: a bento, or the directory of `service.py`.
        listener: a socket that listens.
        timeout_graceful_shutdown: seconds that requests have to end then.
    """
    global _is_alone  # noqa: PLW0603 (what BentoML calls before workers start must know)
    from _bentoml_impl.server.serving import server_on_deployment  # noqa: PLC0415 (as above)

    from model_server.adapters import uvicorn  # noqa: PLC0415

    _is_alone = True
    service = cast("ModelService[Any]", bentoml.load(bento, standalone_load=True))
    context = bentoml.server_context
    context.service_type = "entry_service"
    context.service_name = service.name
    context.bento_name = service.bento.tag.name if service.bento else service.name
    context.bento_version = (service.bento and service.bento.tag.version) or "not available"
    server_on_deployment(service)
    app = service.to_asgi(is_main=True)
    uvicorn.serve(app, listener, cast("Callable[..., Any]", service.http_protocol), timeout_graceful_shutdown)


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
        fail(f"a worker was killed by signal {child.si_status}", "worker-killed")
        end(1, _END_SECONDS)


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
        fail("the port is taken by another process: choose another", "port-taken")
        os._exit(1)  # nothing was started, and the process manager's end may wait for ever
    else:
        otherwise(kind, error, trace)


def _exit(reason: object) -> NoReturn:
    """End with a status, or with 1 and a line that says why."""
    if isinstance(reason, int):
        end(reason, _END_SECONDS)
    fail(str(reason), getattr(reason, "code", "settings-invalid"))
    if isinstance(reason, SlowModelError):
        os._exit(1)
    end(1, _END_SECONDS)
