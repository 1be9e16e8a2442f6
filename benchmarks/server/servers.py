"""The servers that are compared, each in its own environment."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.environments import ROOT, environment_of, locked_environment

Rows = Sequence[Any]  # of numbers, or objects by column

OURS = "this server"
OURS_IN_IMAGE = "this server, as in the image"
BASE = "base"
BASE_IN_IMAGE = "base, as in the image"
OURS_APART = "this server, BATCHING=off"
FLOOR = "floor"
FASTAPI = "FastAPI"
TUTORIAL = ", as in its tutorial"
BATCHING = ", batching"

_PEERS = Path(__file__).parent / "peers"
_QUIET = {"BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1"}
_BEST = {"BEST": "true"}
_MAX_BATCH_SIZE = 64
_JSON_LENGTH = 512  # filled up with spaces
MAIN_CONNECTIONS = 8


@dataclass(frozen=True)
class Cell:
    """A load: a model, the number of rows per request, and the number of connections."""

    model: str
    rows: int
    connections: int


def _every(_cell: Cell) -> bool:
    return True


def _few(cell: Cell) -> bool:
    """Return whether the tutorial's form of a server is measured with a load."""
    return cell.model == "iris" and cell.connections == MAIN_CONNECTIONS


def _single_rows(cell: Cell) -> bool:
    """Return whether the loads of a batching server include this one; large requests gain nothing from batches."""
    return cell.rows == 1 and cell.model != "columns"


@dataclass(frozen=True, eq=False)
class Server:
    """A server of the model at `MODEL_FILEPATH`.

    Attributes:
        name: name in the tables.
        start: function that creates the environment and returns the command to serve on a port, given a directory for
            files of the server.
        predict: path of the prediction route.
        health: path of a route that does not use the model.
        request: function that returns the body of a request.
        answer: function that returns the probabilities of an answer.
        environment: additional environment variables.
        working_directory: working directory of the command.
        of_columns: server of the model with named columns; None if this program does not serve it.
        takes: function that returns whether the server is measured with a load.
        json_length: length of the JSON part of bodies with binary tensors; 0 for bodies in JSON. `request` and `answer`
            then have the whole body.
    """

    name: str
    start: Callable[[int, Path], list[str]]
    predict: str = "/predict"
    health: str = "/health"
    request: Callable[[Rows], Any] = lambda rows: {"data": rows}
    answer: Callable[[Any], Any] = lambda answer: answer["prediction"]
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: Path = ROOT
    of_columns: "Server | None" = None
    takes: Callable[[Cell], bool] = _every
    json_length: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the server is measured with every load."""
        return self.takes is _every

    def serving(self, model: str) -> "Server | None":
        """Return what serves a model; None if this server does not serve it."""
        return self.of_columns if model == "columns" else self

    def body(self, rows: Rows) -> bytes:
        """Return the body of a request."""
        made = self.request(rows)
        return made if isinstance(made, bytes) else json.dumps(made).encode()

    def probabilities(self, body: bytes, count: int) -> npt.NDArray[Any]:
        """Return the probabilities of an answer, of shape (count, classes).

        Raises:
            ValueError: the answer does not have `count` rows.
            KeyError: the answer has another format.
        """
        return np.asarray(self.answer(body if self.json_length else json.loads(body)), np.float64).reshape(count, -1)


def servers(base: Path | None = None) -> list[Server]:
    """Return the servers, starting with this one.

    Args:
        base: directory with the files of another commit, whose server to add.
    """
    return [
        *_both_ways(OURS, OURS_IN_IMAGE, "server", ROOT),
        *(_both_ways(BASE, BASE_IN_IMAGE, "base", base) if base else ()),
        _script(FLOOR, "floor", of_columns=_script(FLOOR, "columns_floor")),
        _script(FASTAPI, "best_fastapi", of_columns=_script(FASTAPI, "columns_fastapi")),
        _script(FASTAPI + TUTORIAL, "plain_fastapi", takes=_few),
        *_bentoml(),
        _script("LitServe", "lit_server", environment=_BEST),
        _script(
            "LitServe" + BATCHING,
            "lit_server",
            environment=_BEST | {"MAX_BATCH_SIZE": str(_MAX_BATCH_SIZE)},
            takes=_single_rows,
        ),
        _script("LitServe" + TUTORIAL, "lit_server", takes=_few),
        _kserve(
            "KServe",
            "kserve_model",
            "iris",
            environment=_BEST,
            of_columns=_kserve("KServe", "columns_kserve", "columns"),
        ),
        _kserve("KServe" + TUTORIAL, "kserve_model", "iris", takes=_few),
        *_mlservers(),
        *_with_inference_protocol(),
    ]


def _with_inference_protocol() -> list[Server]:
    """Return the servers of the Open Inference Protocol, with tensors in JSON and binary; MLServer takes JSON only."""
    _, ours, *_ = _both_ways(OURS, OURS_IN_IMAGE, "server", ROOT)
    ours = replace(ours, environment={**_QUIET, "MODEL_NAME": "model"}, of_columns=None)
    kserve = _script("KServe", "protocol_kserve", health="/v2/health/live")
    return [
        replace(server, name=f"{server.name}{title}", predict="/v2/models/model/infer", takes=_few, **form)
        for server in (ours, kserve)
        for title, form in (
            (", /v2", {"request": _tensor, "answer": lambda answer: answer["outputs"][0]["data"]}),
            (", /v2 binary", {"request": _binary, "answer": _binary_answer, "json_length": _JSON_LENGTH}),
        )
    ]


def _bentoml() -> list[Server]:
    def server(name: str, script: str, **options: Any) -> Server:  # noqa: ANN401 (the fields of a server)
        return Server(
            name,
            lambda port, _: [
                *(str(_python(script)), "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)),
                *("--working-dir", str(_PEERS), f"{script}:Iris"),
            ],
            environment=_QUIET,
            **options,
        )

    together = {"predict": "/predict_together", "answer": lambda answer: answer, "takes": _single_rows}
    return [
        server("BentoML", "best_bentoml"),
        server("BentoML" + BATCHING, "best_bentoml", **together),
        server("BentoML" + TUTORIAL, "stock_bentoml", takes=_few),
    ]


def _kserve(name: str, script: str, model: str, **options: Any) -> Server:  # noqa: ANN401 (the fields of a server)
    return _script(
        name,
        script,
        predict=f"/v1/models/{model}:predict",
        health="/",
        request=lambda rows: {"instances": rows},
        answer=lambda answer: answer["predictions"],
        **options,
    )


def _mlservers() -> list[Server]:
    def server(
        name: str,
        implementation: str,
        request: Callable[[Rows], Any],
        workers: int,
        batches: Mapping[str, float] | None = None,
        **options: Any,  # noqa: ANN401 (the fields of a server)
    ) -> Server:
        return Server(
            name,
            lambda port, directory: _start_mlserver(implementation, workers, batches or {}, port, directory),
            predict="/v2/models/model/infer",
            health="/v2/health/live",
            request=request,
            answer=lambda answer: answer["outputs"][0]["data"],
            **options,
        )

    iris = "mlserver_runtime.Iris"
    batches = {"max_batch_size": _MAX_BATCH_SIZE, "max_batch_time": 0.001}
    columns = server("MLServer", "columns_mlserver.Columns", _data_frame, 0)
    return [
        server("MLServer", iris, _tensor, 0, environment=_BEST, of_columns=columns),
        server("MLServer" + BATCHING, iris, _tensor, 0, batches, environment=_BEST, takes=_single_rows),
        server("MLServer" + TUTORIAL, iris, _tensor, 1, takes=_few),
    ]


def _tensor(rows: Rows) -> Any:  # noqa: ANN401 (JSON)
    """Return rows as a tensor of the Open Inference Protocol."""
    return {"inputs": [{"name": "data", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": rows}]}


def _binary(rows: Rows) -> bytes:
    """Return a request with rows as a binary tensor, for a binary answer with the probabilities."""
    data = np.array(rows, "<f4").tobytes()
    [tensor] = _tensor(rows)["inputs"]
    del tensor["data"]
    tensor["parameters"] = {"binary_data_size": len(data)}
    request = {"inputs": [tensor], "outputs": [{"name": "probabilities"}], "parameters": {"binary_data_output": True}}
    return json.dumps(request).encode().ljust(_JSON_LENGTH) + data


def _binary_answer(body: bytes) -> npt.NDArray[Any]:
    """Return the only tensor of an answer, which follows its JSON part."""
    _, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    return np.frombuffer(body[end:], "<f4")


def _data_frame(rows: Rows) -> Any:  # noqa: ANN401 (JSON)
    """Return rows in the form of MLServer's codec for data frames."""
    text = {"datatype": "BYTES", "parameters": {"content_type": "str"}}
    return {
        "parameters": {"content_type": "pd"},
        "inputs": [
            {
                "name": name,
                "shape": [len(rows), 1],
                "data": [row[name] for row in rows],
                **(text if isinstance(value, str) else {"datatype": "FP32"}),
            }
            for name, value in rows[0].items()
        ],
    }


def _both_ways(name: str, name_in_image: str, environment: str, project: Path) -> list[Server]:
    """Return the server of a project under `bentoml serve`, and in one process."""

    def start(*command: str) -> Callable[[int, Path], list[str]]:
        return lambda port, _: [
            *(str(locked_environment(environment, project=project)), "-m", *command, str(project)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    def server(title: str, *command: str) -> Server:
        same = Server(title, start(*command), environment=_QUIET, working_directory=project)
        takes_columns = (project / "model_server" / "protocols" / "json_columns.py").exists()  # older commits do not
        return replace(same, of_columns=same) if takes_columns else same

    in_image = server(name_in_image, "model_server", "serve")
    apart = replace(in_image, name=OURS_APART, environment={**_QUIET, "BATCHING": "off"}, takes=_single_rows)
    return [server(name, "bentoml", "serve"), in_image, *([apart] if name == OURS else [])]


def _python(script: str) -> Path:
    return environment_of(script.replace("_", "-"), _PEERS / f"{script}.py")


def _script(name: str, script: str, **options: Any) -> Server:  # noqa: ANN401 (the fields of a server)
    return Server(name, lambda *_: [str(_python(script)), str(_PEERS / f"{script}.py")], **options)


def _start_mlserver(
    implementation: str, workers: int, batches: Mapping[str, float], port: int, directory: Path
) -> list[str]:
    module = implementation.partition(".")[0]
    settings = {
        "parallel_workers": workers,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "metrics_dir": str(directory),
        "debug": False,
    }
    (directory / "settings.json").write_text(json.dumps(settings))
    model = {"name": "model", "implementation": implementation, **batches}
    (directory / "model-settings.json").write_text(json.dumps(model))
    (directory / f"{module}.py").write_bytes((_PEERS / f"{module}.py").read_bytes())
    return [str(_python(module).parent / "mlserver"), "start", str(directory)]


def environment(server: Server, model: Path, labels: Path, port: int, home: Path) -> dict[str, str]:
    """Return the environment variables of a server."""
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    files = {"MODEL_FILEPATH": str(model), "LABEL_FILEPATH": str(labels)}
    return {**base, **files, "PORT": str(port), "BENTOML_HOME": str(home), **server.environment}
