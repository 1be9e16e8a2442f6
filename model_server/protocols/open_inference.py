"""The Open Inference Protocol, version 2: requests with named tensors for the one model that is served."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from model_server.model.columns_spec import ColumnsSpec
from model_server.model.model import Model
from model_server.model.row_spec import RowSpec, describe_value
from model_server.model.rows import Array, InvalidRowsError, Rows, format_position
from model_server.model.tasks import Task
from model_server.protocols.inputs import Input, quoted
from model_server.protocols.json_body import BodyError, load_json
from model_server.protocols.json_rows import to_jsonable
from model_server.protocols.protocol import Headers
from model_server.protocols.tensors import BYTES, DTYPES, TensorError, check_finite, datatype_of, decode, encode
from model_server.protocols.usual_requests import OutputAsk, UsualRequests

PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "classification")
LABEL = "label"
JSON_LENGTH = b"inference-header-content-length"

_VERSION_DIGITS = 12
_SHOWN = 80  # characters of a name or a shape in a message
_MAX_LISTED = 8  # names in a message
_FEW_NUMBERS = 256
_REQUEST_FIELDS = frozenset({"id", "model_name", "model_version", "parameters", "inputs", "outputs"})
_INPUT_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})


class Ask(NamedTuple):
    """A request without its inputs.

    Attributes:
        id: the id of the answer.
        outputs: the outputs that it asks for.
        names: the names of these outputs.
    """

    id: str
    outputs: Sequence[OutputAsk]
    names: Sequence[str]


class Outputs:
    """The answers to some rows by output: for each output, one answer per row.

    Args:
        answers: the answers by output.
        rows: the number of rows.
    """

    __slots__ = ("answers", "rows")

    def __init__(self, answers: Mapping[str, Any], rows: int) -> None:
        self.answers = answers
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> "Outputs":
        return Outputs({name: answers[rows] for name, answers in self.answers.items()}, len(range(self.rows)[rows]))


class OpenInference:
    """Reads and writes requests for one model.

    `UsualRequests` reads most requests. Any other one is read from its whole document, which decides whether it is
    valid, and reports the error.

    Args:
        name: the name of the model; no other name is served.
        model: the model.
        has_label: whether the service has the label of a row as an output.

    Attributes:
        name: as above.
        version: the only version, the first 12 digits of the model's digest.
        predictions: the name of the output with the model's predictions.
        outputs: the names of all outputs.
        metadata: the answer to a request for the model's metadata.
    """

    media_types: Collection[bytes] = (b"application/json", b"application/octet-stream")
    error_field = "error"

    def __init__(self, name: str, model: Model, *, has_label: bool) -> None:
        self.name = name
        self.version = model.info["sha256"][:_VERSION_DIGITS]
        self.predictions = "values" if model.task is Task.VALUES else "probabilities"
        self.outputs = (self.predictions, LABEL) if has_label else (self.predictions,)
        self._labels = list(model.labels.values())
        self._spec = model.spec
        self._inputs = {name: Input(name, spec) for name, spec in model.inputs.items()}
        self._columns = self._inputs
        if isinstance(model.spec, RowSpec) and model.spec.names:
            self._columns = {column: Input(column, RowSpec(model.spec.dtype, ())) for column in model.spec.names}
        self._usual = UsualRequests(name, self._spec, self._inputs, self.outputs)
        prediction_shape = [-1 if length is None else length for length in model.prediction_shape]
        shapes = {self.predictions: [-1, *prediction_shape], LABEL: [-1]}
        datatypes = {self.predictions: datatype_of(np.dtype(model.metadata.prediction_type)), LABEL: BYTES}
        self.metadata: dict[str, Any] = {
            "name": name,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": [_tensor(name, found.datatype, found.shape) for name, found in self._inputs.items()],
            "outputs": [_tensor(name, datatypes[name], shapes[name]) for name in self.outputs],
        }

    def read(self, body: bytes, headers: Mapping[bytes, bytes], request_id: bytes) -> tuple[Rows, Ask]:
        """Return the rows of a request, and the rest of it."""
        size = _json_size(headers.get(JSON_LENGTH), len(body))
        header = body if size is None else body[:size]
        usual = self._usual.read(header, body, size)
        if usual is None:
            document = _read_object(header)
            _check_fields(document, _REQUEST_FIELDS, "request")
            self._check_model(document)
            parameters = _parameters(document, "request")
            outputs = self._read_outputs(document.get("outputs"), parameters)
            given = document.get("id")
            if given is not None and type(given) is not str:
                raise _invalid(f"The id is {_shown(given)}; expected a string.")
            is_frame = _content_type(parameters, "request") == "pd"
            rows = self._read_inputs(document.get("inputs"), _Bytes(body, size), is_frame=is_frame)
        else:
            rows, given, outputs = usual
        return rows, Ask(given or request_id.decode(), outputs, [output.name for output in outputs])

    def write(self, answers: Outputs, ask: Ask) -> tuple[bytes, Headers]:
        """Return the body of the answer, and its headers if it has binary tensors."""
        outputs = []
        tensors = []
        for output in ask.outputs:
            array = self._array(answers.answers[output.name], output)
            tensor = _tensor(output.name, datatype_of(array.dtype), list(array.shape))
            if output.is_binary:
                tensors.append(encode(array))
                tensor["parameters"] = {"binary_data_size": len(tensors[-1])}
            else:
                tensor["data"] = _flat(array)
            outputs.append(tensor)
        document = {"model_name": self.name, "model_version": self.version, "id": ask.id, "outputs": outputs}
        header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        if not tensors:
            return header, ()
        headers = ((b"content-type", b"application/octet-stream"), (JSON_LENGTH, b"%d" % len(header)))
        return b"".join((header, *tensors)), headers

    def describe(self, error: InvalidRowsError) -> str:
        """Return an error in the rows as one sentence about an input."""
        like = "" if error.reference is None else f", as in {self._position(error.reference)}"
        return f"{self._position(error.position)} {error.problem}{like}."

    def _position(self, position: Sequence[Any]) -> str:
        match position:
            case (str(name),):
                return quoted(name)
            case (int(row), str(name), *rest):
                return format_position(quoted(name), (row, *rest))
        return format_position(quoted(next(iter(self._inputs))), tuple(position))

    def _check_model(self, document: Mapping[str, Any]) -> None:
        """Check that the model's name and version in a body, which some clients send, are those of its path."""
        for field, expected in (("model_name", self.name), ("model_version", self.version)):
            if document.get(field) not in (None, "", expected):
                raise _invalid(f'The {field} is {_shown(document[field])}; expected "{expected}".')

    def _read_outputs(self, wanted: object, parameters: Mapping[str, Any]) -> Sequence[OutputAsk]:
        is_binary = _flag(parameters, "binary_data_output", "request")
        if not wanted and (wanted is None or type(wanted) is list):
            return tuple(OutputAsk(name, is_binary) for name in self.outputs)
        if type(wanted) is not list:
            raise _invalid(f"The outputs are {_shown(wanted)}; expected a list of objects.")
        found: dict[str, OutputAsk] = {}
        for output in wanted:
            name = _name(output, "outputs", self.outputs, found)
            _check_fields(output, _OUTPUT_FIELDS, f"output {quoted(name)}")
            found[name] = self._read_output(name, output, default=is_binary)
        return tuple(found.values())

    def _read_output(self, name: str, output: Mapping[str, Any], *, default: bool) -> OutputAsk:
        about = f"output {quoted(name)}"
        parameters = _parameters(output, about)
        is_binary = _flag(parameters, "binary_data", about, default=default)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise _invalid(
                f'The parameter "classification" of the {about} is {_shown(classes)}; expected a number of classes.'
            )
        if classes and (name == LABEL or not self._labels):
            raise _invalid(f'The {about} has no classes; expected no parameter "classification".')
        return OutputAsk(name, is_binary, classes)

    def _read_inputs(self, given: object, binary: "_Bytes", *, is_frame: bool) -> Rows:
        """Return the rows of a request.

        Args:
            given: the inputs in the JSON part.
            binary: the binary tensors.
            is_frame: whether the inputs are the columns of a data frame, with the types of data frames.
        """
        if type(given) is not list:
            found = "missing" if given is None else _shown(given)
            raise _invalid(f"The inputs are {found}; expected a list of objects.")
        inputs = self._columns if is_frame else self._inputs
        tensors: dict[str, Array] = {}
        for item in given:
            name = _name(item, "inputs", inputs, tensors)
            tensors[name] = self._read_tensor(inputs[name], item, binary, is_frame=is_frame)
            first = next(iter(tensors))
            if len(tensors[name]) != len(tensors[first]):
                raise _invalid(
                    f"The input {quoted(name)} has {len(tensors[name])} rows; expected {len(tensors[first])}, as in "
                    f"{quoted(first)}."
                )
        for name, tensor in inputs.items():
            if name not in tensors:
                raise _invalid(
                    f"The input {quoted(name)} is missing; expected {tensor.datatype} of the shape {tensor.shape}."
                )
        binary.check_used()
        arrays = [tensors[name] for name in inputs]
        if isinstance(self._spec, ColumnsSpec):
            return self._spec.to_columns(dict(zip(inputs, arrays, strict=True)))
        return arrays[0] if inputs is self._inputs else np.stack([array.reshape(-1) for array in arrays], axis=1)

    def _read_tensor(self, expected: Input, tensor: Mapping[str, Any], binary: "_Bytes", *, is_frame: bool) -> Array:
        about = expected.about
        _check_fields(tensor, _INPUT_FIELDS, about)
        parameters = _parameters(tensor, about)
        _content_type(parameters, about, is_text=expected.spec.is_text)
        datatype = tensor.get("datatype")
        is_known = datatype == expected.datatype or (is_frame and _are_numbers(datatype, expected.datatype))
        if not isinstance(datatype, str) or not is_known:
            raise _invalid(f'The datatype of the {about} is {_shown(datatype)}; expected "{expected.datatype}".')
        shape, spec = _read_shape(about, expected, tensor.get("shape"), is_frame=is_frame), expected.spec
        try:
            if "binary_data_size" in parameters:
                if "data" in tensor:
                    raise _invalid(f'The {about} has both "data" and "binary_data_size"; expected one of them.')
                array = binary.take(about, parameters["binary_data_size"], datatype, shape)
                check_finite(array, spec)
                if datatype != expected.datatype:
                    array = spec.cast(array.ravel().tolist(), shape)
            else:
                array = _from_json(about, tensor.get("data"), spec, shape)
        except InvalidRowsError as error:
            position = error.position
            raise InvalidRowsError((*position[:1], expected.name, *position[1:]), error.problem) from None
        return array.reshape(-1, *spec.row_shape) if is_frame else array

    def _array(self, answers: Any, output: OutputAsk) -> Array:  # noqa: ANN401 (any answers)
        """Return the answers to an output as an array of numbers or of strings."""
        if output.classes:
            return self._classify(np.asarray(answers), output.classes)
        if output.name == LABEL:
            # Several labels of a row are one string, since rows may have different numbers of them.
            strings = [
                label
                if isinstance(label, str)
                else orjson.dumps(label, to_jsonable, orjson.OPT_SERIALIZE_NUMPY).decode()
                for label in answers
            ]
            return np.array(strings, np.object_)
        array = np.asarray(answers)
        if datatype_of(array.dtype) == BYTES:
            raise TypeError(f"the method for {output.name} returned {array.dtype}; expected numbers")
        return array

    def _classify(self, scores: Array, count: int) -> Array:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        strings = [
            [f"{row[index]:f}:{index}:{self._labels[index]}" for index in indices]
            for row, indices in zip(scores.tolist(), best.tolist(), strict=True)
        ]
        return np.array(strings, np.object_)


class _Bytes:
    """The binary tensors of a request, which follow its JSON part in the order of the inputs.

    Args:
        body: the body.
        start: the length of the JSON part; None if the request does not give it, and thus has no binary tensors.
    """

    def __init__(self, body: bytes, start: int | None) -> None:
        self._body = body
        self._start = start

    def take(self, about: str, size: object, datatype: str, shape: tuple[int, ...]) -> Array:
        """Return the next tensor, which has `size` bytes according to its parameters."""
        if self._start is None:
            raise _invalid(
                f"The {about} is binary, but the request has no Inference-Header-Content-Length; expected that header "
                "with the length of the JSON part."
            )
        left = len(self._body) - self._start
        if type(size) is not int or not 0 <= size <= left:
            found = str(size)[:_SHOWN] if type(size) is int else _shown(size)
            raise _invalid(
                f'The "binary_data_size" of the {about} is {found}; expected at most the {left} bytes that are left in '
                "the body."
            )
        try:
            array = decode(self._body, self._start, size, datatype, shape)
        except TensorError as error:
            raise _invalid(f"The {about} {error}.") from None
        self._start += size
        return array

    def check_used(self) -> None:
        """Raise `BodyError` if bytes are left."""
        if self._start is not None and self._start != len(self._body):
            left = len(self._body) - self._start
            raise _invalid(f"The body has {left} bytes after its last tensor; expected none.")


def _read_shape(about: str, expected: Input, shape: Any, *, is_frame: bool) -> tuple[int, ...]:  # noqa: ANN401 (JSON)
    spec = expected.spec
    is_list = type(shape) is list and all(type(length) is int and length > 0 for length in shape)
    if is_list and is_frame and spec.row_size == 1 and len(shape) in (1, 2) and shape[1:] in ([], [1]):
        return tuple(shape)
    if not is_list or not spec.fits(tuple(shape)):
        limit = f", where -1 is at most {spec.max_length} (MAX_ROW_LENGTH)" if spec.max_length else ""
        found = "missing" if shape is None else json.dumps(shape)[:_SHOWN]
        raise _invalid(f"The shape of the {about} is {found}; expected {expected.shape}{limit}.")
    return tuple(shape)


def _from_json(about: str, data: object, spec: RowSpec, shape: tuple[int, ...]) -> Array:
    if type(data) is not list:
        found = "missing" if data is None else _shown(data)
        raise _invalid(f"The data of the {about} is {found}; expected a list.")
    if len(shape) > 1 and data and type(data[0]) is list:
        if len(spec.row_shape) < len(shape) - 1:  # a column of a data frame
            spec = RowSpec(spec.dtype, shape[1:], takes_booleans=True)
        array = spec.rows(data)
        if array.shape != shape:
            raise _invalid(f"The data of the {about} has the shape {list(array.shape)}; expected {list(shape)}.")
        return array
    count = math.prod(shape)
    if len(data) != count:
        raise _invalid(f"The data of the {about} has {len(data)} values; expected {count}, as its shape says.")
    return spec.cast(data, shape)


def _json_size(header: bytes | None, size: int) -> int | None:
    """Return the length of the JSON part of a body; None if the whole body is JSON."""
    if header is None:
        return None
    if not header.isdigit() or len(header) > len(str(size)) or int(header) > size:
        found = header.decode("latin-1")[:_SHOWN]
        raise _invalid(
            f"The Inference-Header-Content-Length is {json.dumps(found)}; expected at most the {size} bytes of the "
            "body."
        )
    return int(header)


def _read_object(body: bytes) -> dict[str, Any]:
    document = load_json(body)
    if not isinstance(document, dict):
        raise BodyError("body-not-object", f"The body is {_shown(document)}; expected an object with inputs.")
    try:
        json.loads(body, object_pairs_hook=_check_names, parse_int=str, parse_float=str)
    except RecursionError:
        raise BodyError("body-not-json", "The body is not valid JSON: it is nested too deeply.") from None
    return document


def _check_names(pairs: Sequence[tuple[str, Any]]) -> None:
    """Raise `BodyError` if a name appears twice in an object."""
    names = set()
    for name, _ in pairs:
        if name in names:
            raise BodyError("field-twice", f"The field {quoted(name)} appears twice; expected once.")
        names.add(name)


def _name(item: Any, field: str, names: Sequence[str] | Mapping[str, Any], found: Mapping[str, Any]) -> str:  # noqa: ANN401
    """Return the name of an input or output, which must be one of these, and must not be found yet."""
    if not isinstance(item, dict):
        raise _invalid(f"The {field} have {_shown(item)}; expected objects.")
    name = item.get("name")
    kind = field.removesuffix("s")
    if type(name) is not str or name not in names:
        listed = ", ".join(map(quoted, list(names)[:_MAX_LISTED]))
        more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        raise _invalid(f"The {kind} {_shown(name)} is unknown; expected {listed}{more}.")
    if name in found:
        raise _invalid(f"The {kind} {quoted(name)} appears twice; expected once.")
    return name


def _parameters(item: Mapping[str, Any], about: str) -> Mapping[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _invalid(f"The parameters of the {about} are {_shown(parameters)}; expected an object.")
    return parameters


def _content_type(parameters: Mapping[str, Any], about: str, *, is_text: bool = False) -> str:
    """Return the codec of MLServer that a request or an input names; empty without one."""
    found = parameters.get("content_type", "")
    if found not in ("", "np", "pd") and not (is_text and found == "str"):
        raise _invalid(f'The "content_type" of the {about} is {_shown(found)}; expected "np" or "pd".')
    return str(found)


def _are_numbers(*datatypes: object) -> bool:
    return all(isinstance(datatype, str) and datatype in DTYPES for datatype in datatypes)


def _flag(parameters: Mapping[str, Any], name: str, about: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise _invalid(f'The parameter "{name}" of the {about} is {_shown(value)}; expected true or false.')
    return value


def _check_fields(item: Mapping[str, Any], known: frozenset[str], about: str) -> None:
    if not known.issuperset(item):
        unknown = next(name for name in item if name not in known)
        raise _invalid(f"The field {quoted(unknown)} of the {about} is unknown; expected {', '.join(sorted(known))}.")


def _flat(array: Array) -> Any:  # noqa: ANN401 (what orjson takes)
    """Return the values of an array in row-major order, as orjson takes them; numbers keep all their digits."""
    if array.size <= _FEW_NUMBERS or array.dtype.kind == "O":
        return array.ravel().tolist()
    # For float32, orjson writes only the digits that distinguish neighbouring values.
    return np.ascontiguousarray(array, np.float64 if array.dtype.kind == "f" else array.dtype).ravel()


def _tensor(name: str, datatype: str, shape: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else describe_value(value)


def _invalid(sentence: str) -> BodyError:
    return BodyError("inference-invalid", sentence)
