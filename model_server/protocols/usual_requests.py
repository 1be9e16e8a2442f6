"""Requests of the Open Inference Protocol in their usual form, which take little time to read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.row_spec import RowSpec
from model_server.model.rows import Array, Rows
from model_server.protocols.inputs import Input


class OutputAsk(NamedTuple):
    """An output that a request asks for.

    Attributes:
        name: the output.
        is_binary: whether its bytes follow the JSON part of the answer.
        classes: the number of classes for each row, the most probable first; 0 for the output itself.
    """

    name: str
    is_binary: bool = False
    classes: int = 0


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, int] | UnsetType = UNSET


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, bool] | UnsetType = UNSET


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Tensor]
    id: str | UnsetType = UNSET
    model_name: str | UnsetType = UNSET
    outputs: list[_Output] | UnsetType = UNSET
    parameters: dict[str, bool] | UnsetType = UNSET


class _UnusualError(Exception):
    """The request may have another form, or an error."""


class UsualRequests:
    """Reads requests whose inputs are those of the model, with fixed shapes and valid values.

    Args:
        name: the name of the model.
        spec: types and shapes of the rows.
        inputs: the inputs of the model.
        outputs: the names of its outputs.
    """

    def __init__(
        self, name: str, spec: RowSpec | ColumnsSpec, inputs: Mapping[str, Input], outputs: Sequence[str]
    ) -> None:
        self._names = (UNSET, name)
        self._spec = spec
        self._inputs = inputs
        self._outputs = frozenset(outputs)
        self._all = tuple(map(OutputAsk, outputs))
        self._all_binary = tuple(OutputAsk(output, is_binary=True) for output in outputs)
        self._decoder = msgspec.json.Decoder(_Request)

    def read(
        self, header: bytes, body: bytes, start: int | None
    ) -> tuple[Rows, str | None, Sequence[OutputAsk]] | None:
        """Return the rows, the id and the outputs of a request; None if it may have another form.

        Args:
            header: the JSON part of the body.
            body: the body.
            start: the offset of the first binary tensor; None if the whole body is JSON.
        """
        try:
            request = self._decoder.decode(header)
            # The number of quotes differs if a name appears twice, or if a string has an escaped quote.
            if len(request.inputs) != len(self._inputs) or header.count(b'"') != 2 * _strings(request):
                return None
            return self._rows(request.inputs, body, start), request.id or None, self._asked(request)
        except (_UnusualError, msgspec.MsgspecError, RecursionError, ValueError):
            return None

    def _asked(self, request: _Request) -> Sequence[OutputAsk]:
        parameters = request.parameters or {}
        is_binary = parameters.pop("binary_data_output", False)
        if parameters or request.model_name not in self._names:
            raise _UnusualError
        if not request.outputs:
            return self._all_binary if is_binary else self._all
        found = {}
        for output in request.outputs:
            others = output.parameters or {}
            found[output.name] = OutputAsk(output.name, others.pop("binary_data", is_binary))
            if others:
                raise _UnusualError
        if len(found) != len(request.outputs) or not self._outputs.issuperset(found):
            raise _UnusualError
        return tuple(found.values())

    def _rows(self, tensors: Sequence[_Tensor], body: bytes, start: int | None) -> Rows:
        arrays: dict[str, Array] = {}
        counts = set()
        for tensor in tensors:
            expected = self._inputs.get(tensor.name)
            if expected is None or tensor.datatype != expected.datatype or tensor.shape[1:] != expected.shape[1:]:
                raise _UnusualError
            count = tensor.shape[0] if tensor.shape else 0
            counts.add(count)
            array: Array | None
            if tensor.parameters:
                size = count * expected.row_bytes
                is_whole = start is not None and 0 < size <= len(body) - start and not bytes(tensor.data)
                if start is None or not is_whole or tensor.parameters != {"binary_data_size": size}:
                    raise _UnusualError
                array = expected.from_bytes(body, start, count)
                start += size
            else:
                array = expected.from_json(bytes(tensor.data), count)
            if array is None:
                raise _UnusualError
            arrays[tensor.name] = array
        if start not in (None, len(body)) or len(arrays) != len(tensors) or len(counts) > 1:
            raise _UnusualError
        if isinstance(self._spec, ColumnsSpec):
            return self._spec.to_columns({name: arrays[name] for name in self._inputs})
        return next(iter(arrays.values()))


def _strings(request: _Request) -> int:
    """Return the number of strings in the document of a request, including names."""
    fields = (request.id, request.model_name)
    count = 1 + 2 * sum(field is not UNSET for field in fields)
    for tensor in request.inputs:
        data = bytes(tensor.data)
        count += 5 + bool(data) + _names_of(tensor.parameters)
        if b'"' in data:
            count += data.count(b'"') // 2
    if request.outputs is not UNSET:
        count += 1 + sum(2 + _names_of(output.parameters) for output in request.outputs)
    return count + _names_of(request.parameters)


def _names_of(parameters: Mapping[str, object] | UnsetType) -> int:
    return 0 if parameters is UNSET else 1 + len(parameters)
