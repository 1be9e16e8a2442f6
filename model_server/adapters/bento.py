"""Private BentoML APIs: how a service is created, started and stopped, and how its application is built."""

import ctypes
import errno
import functools
import gc
import importlib.util
import inspect
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, get_args, get_type_hints

import bentoml
import msgspec
import pydantic
from _bentoml_sdk import Service
from bentoml._internal.log import SERVER_LOGGING_CONFIG
from bentoml._internal.utils.analytics import usage_stats
from bentoml.exceptions import InvalidArgument

from model_server.api import ClassNames, Labels, RowsSchema
from model_server.errors import StartError
from model_server.exiting import exit_within
from model_server.model.loading import SlowModelError, load_model
from model_server.model.rows import InvalidRowsError
from model_server.observability.log import Log, configure, log_failure, logger
from model_server.protocols.json_body import format_error
from model_server.settings import Settings
from volume.log import LogLevel
from volume.settings import SettingsError

if TYPE_CHECKING:
    from _bentoml_sdk.method import APIMethod
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from model_server.http.methods import RowsMethod
    from model_server.http.server import PredictionServer
    from model_server.model.model import Model

T = TypeVar("T")

_EXIT_SECONDS = 5
_PR_SET_PDEATHSIG = 1
# Middleware that every BentoML application has and that predictions do not need.
_BENTOML_MIDDLEWARE = frozenset({"OpenTelemetryMiddleware", "Timeout", "ContextMiddleware"})

# BentoML's command caches BENTOML_DO_NOT_TRACK before it imports this package, which sets the variable.
usage_stats.do_not_track.cache_clear()


class ModelService(Service[T]):
    """A BentoML service whose methods that take rows bypass BentoML's request handling, to use less CPU.

    It loads the model before it serves the first request.
    """

    def __attrs_post_init__(self) -> None:
        """Check the configuration and adapt the methods that take rows."""
        if (workers := self.config.get("workers", 1)) != 1:
            raise _refused("service-option", f"workers is {workers}; expected 1: each process counts its own metrics")
        self.path_prefix = self.path_prefix and f"/{self.path_prefix.strip('/')}".rstrip("/")
        tracing = self.config.get("tracing")
        self._shows_metrics = _take_metrics_setting(self.config)
        self._is_traced_by_bento = tracing is not None
        if not self._is_traced_by_bento:
            self.config["tracing"] = {"excluded_urls": ".*"}
        access: dict[str, Any] = cast("dict[str, Any]", self.config.setdefault("logging", {})).setdefault("access", {})
        access.setdefault("enabled", False)
        super().__attrs_post_init__()
        self._rows_functions = {
            name: _check_rows_argument(name, method, parameter)
            for name, method in self.apis.items()
            if (parameter := _rows_parameter(method.func))
        }
        self._bind: Callable[[T], None] | None = None
        self.http_protocol: Callable[..., Any] | None = None  # set by to_asgi()

    def __call__(self) -> T:
        """Return an instance; in a server, this instance answers the requests."""
        instance = super().__call__()
        bind, self._bind = self._bind, None
        if bind:
            try:
                bind(instance)
            except StartError as error:
                log_failure(str(error), error.code)
                os._exit(1)  # uvicorn would log a traceback first
        return instance

    def schema(self) -> dict[str, Any]:
        """Return the schema for BentoML's clients, which send rows and receive answers according to it."""
        schema = super().schema()
        for route in schema["routes"]:
            if function := self._rows_functions.get(route["name"]):
                # Clients convert arrays to lists only for tensors. With dtype object_, they leave lists unchanged.
                rows = route["input"]["properties"][_rows_parameter(function)]
                rows.update({"type": "tensor", "format": "numpy-array", "dtype": "object_"})
                route["output"] = {"type": "object", "properties": {"prediction": {}}, "required": ["prediction"]}
        return schema

    def to_asgi(self, is_main: bool = True) -> "ASGIApp":  # noqa: FBT001, FBT002 (BentoML's signature)
        """Return the application that a worker serves; exit with one line if a setting or the model is unusable."""
        try:
            settings = Settings.read(os.environ)
            log = configure_logging(settings.log_level)
            served_model()
        except (SettingsError, StartError) as error:
            _exit(error)
        if bentoml.server_context.worker_index is not None:
            _exit_with_parent()
        if not is_main:
            return super().to_asgi(is_main)  # the user's other services call it through BentoML
        # With one worker per service, metrics do not need files. A second server with the same BENTOML_HOME would
        # delete them.
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        # The parent of the workers never serves, so it need not load these modules.
        from starlette.applications import Starlette  # noqa: PLC0415
        from starlette.routing import Route  # noqa: PLC0415

        from model_server.adapters.uvicorn import protocol_factory, replace_default_server  # noqa: PLC0415
        from model_server.http.asgi import Timeout  # noqa: PLC0415
        from model_server.http.inference import LIVE, READY  # noqa: PLC0415
        from model_server.http.server import PredictionServer  # noqa: PLC0415

        if timeout := (self.config.get("traffic") or {}).get("timeout"):
            settings = msgspec.structs.replace(
                settings, request_timeout_seconds=min(timeout, settings.request_timeout_seconds)
            )
        version = (self.bento and self.bento.tag.version) or "not available"
        server = PredictionServer(
            self.name, version, settings, log, shows_metrics=self._shows_metrics, prefix=self.path_prefix or ""
        )
        mounted = [(application, path) for application, path, _ in self.mount_apps]
        self.mount_asgi_app(Starlette(routes=[*server.pages.routes, *server.inference.routes]))
        # Only BentoML's proxy for other programs uses aiohttp, which takes 8 MB.
        sys.meta_path.insert(0, _LazyModuleFinder("aiohttp"))
        app = cast("Starlette", super().to_asgi(is_main))
        for entry in app.user_middleware:
            if _name_of(entry) == "TimeoutMiddleware":
                entry.cls = Timeout  # type: ignore[assignment]
        server.inference.checks = {route.name: route.endpoint for route in app.routes if isinstance(route, Route)}
        app.router.default = _with_not_found(app.router.default)
        # As in stock BentoML, before the routes of mounted applications, which may take every path.
        app.router.routes[:0] = [
            Route(self._prefixed(route.path), route.endpoint)
            for route in server.pages.routes
            if route.path == "/metrics"
        ]
        logging.getLogger("uvicorn.access").propagate = False  # its lines would be formatted, then dropped
        self._bind = functools.partial(self._bind_instance, server, app, mounted)
        self.http_protocol = protocol_factory(server.connections, takes_websockets=_may_take_websockets(mounted))
        if bentoml.server_context.worker_index is not None:
            replace_default_server(self.http_protocol)
        via_app = self._is_traced_by_bento or not _BENTOML_MIDDLEWARE.issuperset(map(_name_of, app.user_middleware))
        probes = [
            self._prefixed(path) for path in ("/livez", "/readyz", "/healthz", "/health", "/metrics", LIVE, READY)
        ]
        return server.wrap(app, probes, via_app=via_app)

    def _bind_instance(
        self, server: "PredictionServer", app: "Starlette", mounted: "list[tuple[ASGIApp, str]]", instance: T
    ) -> None:
        """Route requests to an instance."""
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
            self._openapi_of_others(),
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
        # Objects that exist now live as long as the process: exclude them from garbage collection.
        gc.collect()
        gc.freeze()

    def _rows_method(self, name: str, instance: T) -> "RowsMethod":
        """Return a declared method that takes rows, bound to an instance."""
        from model_server.http.methods import RowsMethod  # noqa: PLC0415

        method, function = self.apis[name], self._rows_functions[name]
        parameter = _rows_parameter(function)
        others = {field: (info.annotation, info) for field, info in method.input_spec.model_fields.items()}
        del others[parameter]
        bound = functools.partial(function, instance)
        first = next(iter(inspect.signature(bound).parameters.values()))
        is_by_name = first.name != parameter or first.kind is inspect.Parameter.KEYWORD_ONLY
        return RowsMethod(
            name=name,
            route=self._prefixed(method.route),
            parameter=parameter,
            call=_by_name(bound, parameter) if is_by_name else bound,
            is_async=inspect.iscoroutinefunction(inspect.unwrap(function)),
            parameters=_parameters_model(name, others) if others else None,
            returns=_return_of(function),
            summary=(inspect.getdoc(function) or name).partition("\n")[0],
        )

    def _openapi_of_others(self) -> dict[str, Any]:
        """Return BentoML's OpenAPI paths and components for the methods that do not take rows."""
        others = [api.route for name, api in self.apis.items() if name not in self._rows_functions]
        if not others:
            return {}
        document: dict[str, Any] = json.loads(json.dumps(self.openapi_spec.asdict()))  # makes its keys strings
        paths = {
            self._prefixed(path): operations
            for path, operations in document["paths"].items()
            if any(path == route or path.startswith(f"{route}/") for route in others)
        }
        return {"paths": paths, "components": document.get("components", {})}

    def _prefixed(self, path: str) -> str:
        return f"{self.path_prefix or ''}/{path.lstrip('/')}"


def _name_of(middleware: object) -> str:
    return getattr(middleware.cls, "__name__", "")  # type: ignore[attr-defined]


def configure_logging(level: LogLevel = LogLevel.INFO) -> Log:
    """Send everything that this process logs to its log, even if BentoML configures logging again."""
    return configure(level, SERVER_LOGGING_CONFIG)


def _take_metrics_setting(config: Mapping[str, Any]) -> bool:
    """Switch BentoML's metrics off, and return whether the service shows metrics: ours have the same names."""
    metrics = dict(config.get("metrics") or {})
    is_wanted = bool(metrics.pop("enabled", True))
    if metrics:
        raise _refused(
            "service-option",
            f"the service's metrics have the settings {', '.join(metrics)}; expected only `enabled`, because names and "
            "buckets are fixed",
        )
    cast("dict[str, Any]", config)["metrics"] = {"enabled": False}
    return is_wanted


def _rows_parameter(function: Callable[..., Any]) -> str:
    """Return the name of the parameter that takes rows; empty if no parameter does.

    Raises:
        StartError: several parameters take rows, or one takes rows or something else.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return ""
    hints.pop("return", None)
    marked = [name for name, hint in hints.items() if _takes_rows(hint)]
    if len(marked) > 1:
        raise _refused(
            "service-method", f"{function.__name__} has several Rows parameters, {' and '.join(marked)}; expected one"
        )
    for name, hint in hints.items():
        if name not in marked and any(map(_takes_rows, get_args(hint))):
            raise _refused(
                "service-method", f"{function.__name__} declares {name} as Rows or another type; expected Rows"
            )
    return marked[0] if marked else ""


def _takes_rows(hint: object) -> bool:
    return any(isinstance(item, RowsSchema) for item in getattr(hint, "__metadata__", ()))


def _refused(code: str, reason: str) -> StartError:
    """Return the error for a service class that cannot be served; unhandled, it is logged as one line."""
    sys.excepthook = functools.partial(_log_start_error, sys.excepthook)
    return StartError(code, reason)


def _check_rows_argument(name: str, method: "APIMethod[..., Any]", parameter: str) -> Callable[..., Any]:
    """Make a method check rows that callers in this process pass, and return the declared function."""
    function: Callable[..., Any] = getattr(method.func, "rows_function", method.func)
    if method.is_stream or method.is_task or method.ctx_param:
        raise _refused(
            "service-method",
            f"{name} takes rows, so it cannot be a stream or a task, nor take the context: declare a separate method "
            "for that",
        )
    signature = inspect.signature(function)

    def checked(instance: Any, *args: Any, **kwargs: Any) -> inspect.BoundArguments:  # noqa: ANN401 (a method's)
        arguments = signature.bind(instance, *args, **kwargs)
        try:
            arguments.arguments[parameter] = instance.model.spec.rows(arguments.arguments[parameter])
        except InvalidRowsError as error:
            raise InvalidArgument(format_error(error, parameter)) from error
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


def _parameters_model(name: str, fields: Mapping[str, Any]) -> type[pydantic.BaseModel]:
    return pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)


def _by_name(function: Callable[..., Any], parameter: str) -> Callable[..., Any]:
    return lambda rows, **others: function(**{parameter: rows}, **others)


def _with_not_found(otherwise: "ASGIApp") -> "ASGIApp":
    """Return the application for requests that no route matches: HTTP gets 404, the rest goes to `otherwise`."""

    async def answer(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http":
            from model_server.http.asgi import answer_not_found  # noqa: PLC0415 (only workers need it)

            await answer_not_found(scope, receive, send)
        else:
            await otherwise(scope, receive, send)

    return answer


def _paths_of_class_names(routes: "Iterable[BaseRoute]", prefix: str) -> Iterator[str]:
    """Yield the paths of the routes of a mounted application that are declared to return class names."""
    for route in routes:
        # Newer versions of FastAPI keep an included router's routes in that router, and BentoML includes one.
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


class _LazyModuleFinder(MetaPathFinder):
    """Import hook that loads one module on its first use instead of its import (`importlib.util.LazyLoader`)."""

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
        SettingsError: a setting is invalid.
        StartError: the model, the label file or the receipt is unusable.
    """
    settings = Settings.read(os.environ)

    def warn(seconds: float) -> None:
        fields = {"seconds": seconds, "timeout": settings.start_timeout_seconds, "path": str(settings.model_filepath)}
        logger.warning("waiting_for_model", extra={"fields": fields})

    return load_model(settings, warn)


@bentoml.on_deployment
def supervise() -> None:
    """Before the workers start, exit if a setting is invalid, and make the process exit when a worker fails.

    BentoML's process manager restarts a failed worker forever or, in a container, keeps running without it.
    """
    try:
        configure_logging(Settings.read(os.environ).log_level)
    except SettingsError as error:
        _exit(error)
    if _is_single_process:
        return
    sys.excepthook = functools.partial(_exit_if_port_taken, sys.excepthook)
    if threading.current_thread() is not threading.main_thread():
        return
    if "--reload" not in sys.argv:  # with it, a failed worker restarts once its code is fixed
        signal.signal(signal.SIGCHLD, _exit_with_worker)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        from circus.sighandler import SysHandler  # noqa: PLC0415 (only the parent of the workers imports it)

        SysHandler.handle_hup = SysHandler.handle_term  # circus ignores SIGHUP and would outlive its terminal
        if "MAKELEVEL" in os.environ and os.isatty(0):
            threading.Thread(target=_end_with_terminal, name="terminal", daemon=True).start()


_is_single_process = False


def serve(bento: str, listener: socket.socket, timeout_graceful_shutdown: int) -> None:
    """Serve in this one process, without BentoML's process manager, until SIGTERM or SIGINT.

    Args:
        bento: a bento, or the directory of `service.py`.
        listener: a listening socket.
        timeout_graceful_shutdown: seconds after the signal within which requests in flight must complete.
    """
    global _is_single_process  # noqa: PLW0603 (supervise() reads it; BentoML calls that without arguments)
    from _bentoml_impl.server.serving import server_on_deployment  # noqa: PLC0415 (only this way to serve needs it)

    from model_server.adapters import uvicorn  # noqa: PLC0415

    _is_single_process = True
    service = bentoml.load(bento, standalone_load=True)
    if not isinstance(service, ModelService):
        log_failure(
            f"{bento} is a service of another class; expected @bentoml.service(service_class=ModelService)",
            "service-class",
        )
        sys.exit(1)
    context = bentoml.server_context
    context.service_type = "entry_service"
    context.service_name = service.name
    context.bento_name = service.bento.tag.name if service.bento else service.name
    context.bento_version = (service.bento and service.bento.tag.version) or "not available"
    server_on_deployment(service)
    app = service.to_asgi(is_main=True)
    uvicorn.serve(app, listener, cast("Callable[..., Any]", service.http_protocol), timeout_graceful_shutdown)


def _exit_with_worker(_signal: int, _frame: FrameType | None) -> None:
    try:
        # WNOWAIT leaves the child for the process manager to reap.
        child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    if child is None:
        return
    if child.si_code == os.CLD_EXITED:
        if child.si_status:
            _exit(child.si_status)
    elif child.si_status not in (signal.SIGTERM, signal.SIGINT):
        log_failure(f"a worker was killed by signal {child.si_status}", "worker-killed")
        exit_within(1, _EXIT_SECONDS)


def _end_with_terminal() -> None:
    """Wait for the terminal to close, then exit. The kernel signals only `make`, which waits for this process."""
    terminal = select.poll()
    terminal.register(0, 0)  # reports a hangup only
    terminal.poll()
    os.kill(os.getpid(), signal.SIGHUP)


def _exit_with_parent() -> None:
    """Make the kernel stop this worker when its process manager is killed; otherwise it would keep serving."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _exit_if_port_taken(
    otherwise: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        log_failure("the port is taken by another process: choose a different one", "port-taken")
        os._exit(1)  # nothing was started, and the process manager's exit may wait forever
    else:
        otherwise(kind, error, trace)


def _log_start_error(
    otherwise: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    if isinstance(error, StartError):
        log_failure(str(error), error.code)
    else:
        otherwise(kind, error, trace)


def _exit(reason: object) -> NoReturn:
    """Exit with `reason` if it is an exit status, otherwise with 1 after logging it."""
    if isinstance(reason, int):
        exit_within(reason, _EXIT_SECONDS)
    log_failure(str(reason), getattr(reason, "code", "settings-invalid"))
    if isinstance(reason, SlowModelError):
        os._exit(1)
    exit_within(1, _EXIT_SECONDS)
