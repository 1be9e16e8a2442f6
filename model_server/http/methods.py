"""Calls of the declared methods that take rows, for one request or for several that share a batch."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pydantic

from model_server.model.model import Once, current_predictions
from model_server.model.rows import Array, Columns, Rows
from model_server.observability.predictions import Predictions
from model_server.prediction.batches import Answers, Entry
from model_server.protocols.open_inference import Ask, Outputs


class RowsMethod(NamedTuple):
    """A method of the service that takes rows, bound to the service instance.

    Attributes:
        name: name of the method in the service class.
        route: path of the method, including the service's prefix.
        parameter: name of the parameter that takes the rows.
        call: the bound method; takes rows, and the other parameters by name; returns one answer per row, in order.
        is_async: whether the method is a coroutine function.
        parameters: a pydantic model of the other parameters; None without any.
        returns: return annotation of the method.
        summary: first line of the method's docstring.
    """

    name: str
    route: str
    parameter: str
    call: Callable[..., Any]
    is_async: bool
    parameters: type[pydantic.BaseModel] | None
    returns: Any
    summary: str

    @property
    def requires_parameters(self) -> bool:
        """Whether the method cannot be called with rows alone."""
        fields = self.parameters.model_fields.values() if self.parameters else ()
        return any(field.is_required() for field in fields)


class Calls(Protocol):
    """How an endpoint calls the methods that answer its requests.

    Attributes:
        is_async: whether `wait` must be called instead of `one`.
        may_batch: whether the rows of several requests may be answered by one call.
    """

    is_async: bool
    may_batch: bool

    def one(self, rows: Rows, ask: Any) -> Any:  # noqa: ANN401 (the protocol's)
        """Return one answer per row of a request; `ask` is the rest of the request, as its protocol has read it."""

    async def wait(self, rows: Rows, ask: Any) -> Any:  # noqa: ANN401 (the protocol's)
        """Return the same as `one`, for methods that are coroutine functions."""

    def together(self, rows: Rows, entries: Sequence[Entry]) -> Any:  # noqa: ANN401 (the protocol's)
        """Return one answer per row of several requests."""


class MethodCall:
    """Calls one method; the rest of a request is the method's other arguments by name, or None.

    Args:
        method: the method.
    """

    def __init__(self, method: RowsMethod) -> None:
        self.is_async = method.is_async
        self.may_batch = not method.parameters
        self._name = method.name
        self._call = method.call

    def one(self, rows: Rows, ask: Mapping[str, Any] | None) -> Answers:
        """Return one answer per row."""
        answers: Answers = self._call(rows, **ask) if ask else self._call(rows)
        _check(self._name, answers, len(rows))
        return answers

    async def wait(self, rows: Rows, ask: Mapping[str, Any] | None) -> Answers:
        """Return one answer per row."""
        answers: Answers = await self._call(rows, **(ask or {}))
        _check(self._name, answers, len(rows))
        return answers

    def together(self, rows: Rows, _entries: Sequence[Entry]) -> Answers:
        """Return one answer per row."""
        answers: Answers = self._call(rows)
        _check(self._name, answers, len(rows))
        return answers


class OutputCalls:
    """Calls the method of each output that a request of the Open Inference Protocol asks for.

    Args:
        methods: the methods by the name of their output.
        in_thread: calls a function with its arguments in a thread, and returns its result.
    """

    may_batch = True

    def __init__(self, methods: Mapping[str, RowsMethod], in_thread: Callable[..., Awaitable[Any]]) -> None:
        self.is_async = any(method.is_async for method in methods.values())
        self._methods = methods
        self._in_thread = in_thread

    def one(self, rows: Rows, ask: Ask) -> Outputs:
        """Return the answers of the methods that the request asks for."""
        return self._call(rows, ask.names)

    async def wait(self, rows: Rows, ask: Ask) -> Outputs:
        """Return the answers of the methods that the request asks for."""
        _protect(rows)
        answers = {}
        with Once(rows):
            for name in ask.names:
                method = self._methods[name]
                # The event loop must not wait for the model.
                answers[name] = await (method.call(rows) if method.is_async else self._in_thread(method.call, rows))
                _check(method.name, answers[name], len(rows))
        return Outputs(answers, len(rows))

    def together(self, rows: Rows, entries: Sequence[Entry]) -> Outputs:
        """Return the answers of the methods that any of the requests asks for."""
        if len(entries) == 1:
            return self._call(rows, entries[0].ask.names)
        return self._call(rows, dict.fromkeys(name for entry in entries for name in entry.ask.names))

    def _call(self, rows: Rows, names: Iterable[str]) -> Outputs:
        _protect(rows)
        answers = {}
        with Once(rows):
            for name in names:
                method = self._methods[name]
                answers[name] = method.call(rows)
                _check(method.name, answers[name], len(rows))
        return Outputs(answers, len(rows))


class CountedCalls:
    """Calls methods, and counts what the model has predicted once they have returned.

    If methods call the model several times for the same rows, as for probabilities and labels, the last call counts.

    Args:
        calls: calls the methods.
        predictions: counts the predictions.
    """

    def __init__(self, calls: Calls, predictions: Predictions) -> None:
        self.is_async = calls.is_async
        self.may_batch = calls.may_batch
        self._calls = calls
        self._count = predictions.count

    def one(self, rows: Rows, ask: Any) -> Any:  # noqa: ANN401 (the protocol's)
        """Return one answer per row of a request."""
        return self._call(self._calls.one, rows, ask)

    async def wait(self, rows: Rows, ask: Any) -> Any:  # noqa: ANN401 (the protocol's)
        """Return one answer per row of a request."""
        collected: list[Array] = []
        token = current_predictions.set(collected)
        try:
            answers = await self._calls.wait(rows, ask)
        finally:
            current_predictions.reset(token)
        self._count_last(collected, len(rows))
        return answers

    def together(self, rows: Rows, entries: Sequence[Entry]) -> Any:  # noqa: ANN401 (the protocol's)
        """Return one answer per row of several requests."""
        return self._call(self._calls.together, rows, entries)

    def _call(self, call: Callable[[Rows, Any], Any], rows: Rows, rest: object) -> Any:  # noqa: ANN401 (the protocol's)
        collected: list[Array] = []
        token = current_predictions.set(collected)
        try:
            answers = call(rows, rest)
        finally:
            current_predictions.reset(token)
        self._count_last(collected, len(rows))
        return answers

    def _count_last(self, collected: list[Array], rows: int) -> None:
        """Count the last predictions, as many as there are rows: a method may call the model for parts of them."""
        while collected and rows > 0:
            predictions = collected.pop()
            rows -= len(predictions)
            self._count(predictions)


def _protect(rows: Rows) -> None:
    """Make rows read-only: several methods get the same ones."""
    for array in rows.arrays.values() if isinstance(rows, Columns) else (rows,):
        array.flags.writeable = False


def _check(name: str, answers: Any, rows: int) -> None:  # noqa: ANN401 (any result)
    if type(answers) is np.ndarray and len(answers) == rows:
        return
    try:
        found = len(answers)
    except TypeError:
        found = None
    if found != rows or isinstance(answers, str | bytes | dict):
        raise TypeError(
            f"{name} returned {type(answers).__name__} for {rows} rows; expected a sequence of {rows} answers, one per "
            "row"
        )
