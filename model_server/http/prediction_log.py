"""The prediction log: the inputs and answers of a sample of the requests, which are the data of users."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic_core import to_jsonable_python

from model_server.model.rows import Columns, Rows
from model_server.observability.log import Log
from model_server.observability.observer import RequestRecord, Sampler
from model_server.protocols.open_inference import Ask, Outputs
from volume.log import LogLevel, escaped

AsJson = Callable[[Any], list[Any]]

_MAX_BYTES = 15_000  # with the other fields, less than the 16 KiB at which container runtimes split lines


class PredictionLog(Collector):
    """Logs one line for each request in the sample. Lines for which the output has no room are dropped and counted.

    Args:
        log: receives the lines.
        sample_rate: the share of requests that are logged, from 0 to 1.
    """

    def __init__(self, log: Log, sample_rate: float) -> None:
        self._log = log
        self._sampler = Sampler(sample_rate)
        self._dropped = 0

    def observe(
        self,
        request: RequestRecord,
        as_json: AsJson,
        rows: Rows,
        answers: Any,  # noqa: ANN401 (the protocol's)
        ask: object = None,
    ) -> None:
        """Log the first rows of an answered request and their answers, as many as fit a line, if it is in the sample.

        Args:
            request: the request.
            as_json: returns rows as JSON values.
            rows: its rows.
            answers: one answer per row; those of the Open Inference Protocol may have outputs of other requests.
            ask: the rest of the request.
        """
        if not self._sampler.selects_next():
            return
        if isinstance(ask, Ask):
            answers = Outputs({name: answers.answers[name] for name in ask.names}, len(rows))
        try:
            inputs, outputs = _first(as_json, rows, answers)
        except Exception:  # noqa: BLE001 (the request is answered, whatever its method has returned)
            self._dropped += 1
            return
        is_written = self._log.write(
            LogLevel.INFO,
            "prediction",
            request_id=request.request_id.decode(),
            route=request.route,
            rows=len(rows),
            inputs=inputs,
            answers=outputs,
        )
        self._dropped += not is_written

    def collect(self) -> Iterator[Metric]:
        """Yield the number of dropped lines."""
        name, about = "model_server_prediction_log_dropped", "Lines of the prediction log that were dropped"
        yield CounterMetricFamily(name, about, self._dropped)


def _first(as_json: AsJson, rows: Rows, answers: Any) -> tuple[list[Any], list[Any]]:  # noqa: ANN401
    """Return the first rows and their answers as JSON values, as a client sends and gets them."""
    logged: tuple[list[Any], list[Any]] = ([], [])
    room = _MAX_BYTES
    for index in range(len(rows)):
        row = rows[index : index + 1]
        answer = (
            {name: found[index] for name, found in answers.answers.items()}
            if isinstance(answers, Outputs)
            else answers[index]
        )
        if _min_bytes(row) + _min_bytes(answer) > room:
            break
        documents = [orjson.dumps(value, _jsonable) for value in (as_json(row)[0], answer)]
        room -= sum(len(escaped(document.decode()).encode()) + 1 for document in documents)
        if room < 0:
            break
        for values, document in zip(logged, documents, strict=True):
            values.append(orjson.loads(document))
    return logged


def _min_bytes(value: object) -> int:
    """Return the bytes that a value needs in JSON at least, without encoding it: a row can be as large as a body."""
    match value:
        case Columns():
            return sum(map(_min_bytes, value.arrays.values()))
        case np.ndarray():
            return 2 * value.size + (sum(map(len, value.flat)) if value.dtype == object else 0)
        case dict():
            return sum(map(_min_bytes, value.values()))
        case list():
            return 2 * len(value)
        case _:
            return 0


def _jsonable(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return to_jsonable_python(value, by_alias=False, fallback=str)
