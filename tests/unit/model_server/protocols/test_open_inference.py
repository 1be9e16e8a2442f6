"""Requests and answers of the Open Inference Protocol, without a server."""

import asyncio
import json
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.http.methods import OutputCalls, RowsMethod
from model_server.model.model import Model
from model_server.model.rows import InvalidRowsError, Rows
from model_server.protocols.json_body import BodyError
from model_server.protocols.open_inference import JSON_LENGTH, LABEL, Ask, OpenInference, Outputs
from model_server.protocols.tensors import TensorError, decode
from model_server.protocols.usual_requests import OutputAsk
from model_server.settings import Settings
from tests.support.processes import IRIS, ROOT

SETOSA = [5.1, 3.5, 1.4, 0.2]
VIRGINICA = [6.3, 3.3, 6.0, 2.5]


class Asked:
    """A model, and the protocol for it as the server puts it together."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.model = Model.load(Settings.read({"LABEL_FILEPATH": "", **environment}))
        has_label = bool(self.model.labels)
        self.protocol = OpenInference("name", self.model, has_label=has_label)
        methods = {
            self.protocol.predictions: self.model.predict,
            **({LABEL: self.model.predict_label} if has_label else {}),
        }
        self._calls = OutputCalls({name: method(call) for name, call in methods.items()}, asyncio.to_thread)

    def rows(self, body: bytes, json_length: int | None = None) -> Rows:
        """Return the rows of a body."""
        headers = {} if json_length is None else {JSON_LENGTH: b"%d" % json_length}
        return self.protocol.read(body, headers, b"id")[0]

    def answer(self, document: object, binary: bytes | None = None) -> dict[str, Any]:
        """Return the answer to a request, in which binary outputs have their bytes as `data`."""
        header = json.dumps(document).encode()
        headers = {} if binary is None else {JSON_LENGTH: b"%d" % len(header)}
        rows, ask = self.protocol.read(header + (binary or b""), headers, b"the id")
        body, answered = self.protocol.write(self._calls.one(rows, ask), ask)
        size = int(dict(answered).get(JSON_LENGTH, len(body)))
        parsed: dict[str, Any] = json.loads(body[:size])
        for output in parsed["outputs"]:
            if "parameters" in output:
                end = size + output["parameters"]["binary_data_size"]
                output["data"] = body[size:end]
                size = end
        assert size == len(body)
        return parsed

    def refusal(self, document: object, binary: bytes | None = None) -> str:
        """Return the sentence that refuses a request."""
        with pytest.raises((BodyError, InvalidRowsError)) as refused:
            self.answer(document, binary)
        error = refused.value
        return self.protocol.describe(error) if isinstance(error, InvalidRowsError) else str(error)


def method(call: Callable[..., Any]) -> RowsMethod:
    return RowsMethod("predict", "/predict", "data", call, False, None, None, "Predict.")


@pytest.fixture(scope="module")
def iris() -> Asked:
    return Asked(IRIS)


@pytest.fixture(scope="module")
def titanic() -> Asked:
    return Asked({"MODEL_FILEPATH": str(ROOT / "models/examples/titanic.onnx")})


@pytest.fixture(scope="module")
def house() -> Asked:
    return Asked({"MODEL_FILEPATH": str(ROOT / "models/examples/house.onnx")})


@pytest.fixture(scope="module")
def text() -> Asked:
    return Asked({"MODEL_FILEPATH": str(ROOT / "models/examples/text.onnx")})


def tensor(data: Any, shape: list[Any] | None = None, datatype: str = "FP32", name: str = "data") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or list(np.shape(data)), "data": data}


def binary_tensor(size: Any, shape: list[int], datatype: str = "FP32", name: str = "data") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def texts(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def outputs(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


FLAT: dict[str, Any] = {"inputs": [tensor([*SETOSA, *VIRGINICA], [2, 4])]}


def test_metadata(iris: Asked, titanic: Asked, house: Asked) -> None:
    assert iris.protocol.metadata == {
        "name": "name",
        "versions": [iris.model.info["sha256"][:12]],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "data", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert [(item["name"], item["datatype"], item["shape"]) for item in titanic.protocol.metadata["inputs"]] == [
        ("age", "FP32", [-1, 1]),
        ("fare", "FP32", [-1, 1]),
        ("sex", "BYTES", [-1, 1]),
        ("deck", "BYTES", [-1, 1]),
    ]
    assert house.protocol.metadata["outputs"] == [{"name": "values", "datatype": "FP32", "shape": [-1]}]


def test_answer(iris: Asked) -> None:
    answer = iris.answer({"id": "mine", **FLAT})
    expected = iris.model.predict(np.array([SETOSA, VIRGINICA], np.float32))
    assert answer == {
        "model_name": "name",
        "model_version": iris.protocol.version,
        "id": "mine",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 3], "data": expected.ravel().tolist()},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["setosa", "virginica"]},
        ],
    }
    assert iris.answer(FLAT)["id"] == "the id"


@pytest.mark.parametrize("data", [[*SETOSA, *VIRGINICA], [SETOSA, VIRGINICA]], ids=["flat", "nested"])
def test_data_may_be_flat_or_nested(iris: Asked, data: list[Any]) -> None:
    assert iris.answer({"inputs": [tensor(data, [2, 4])]})["outputs"] == iris.answer(FLAT)["outputs"]


def test_asked_outputs(iris: Asked) -> None:
    answer = iris.answer({**FLAT, "outputs": [{"name": "label"}, {"name": "probabilities"}]})
    assert list(outputs(answer)) == ["label", "probabilities"]
    assert list(outputs(iris.answer({**FLAT, "outputs": [{"name": "label"}]}))) == ["label"]
    assert list(outputs(iris.answer({**FLAT, "outputs": []}))) == ["probabilities", "label"]


def test_values(house: Asked) -> None:
    row = [171.0, 6.0, 63.0, 18.3]
    [output] = house.answer({"inputs": [tensor([row], name="house")]})["outputs"]
    expected = house.model.predict(np.array([row], np.float32)).tolist()
    assert output == {"name": "values", "datatype": "FP32", "shape": [1], "data": expected}


COLUMNS: list[dict[str, Any]] = [
    tensor(["male", "female"], [2, 1], "BYTES", "sex"),
    tensor([48, 16.5], [2, 1], name="age"),
    tensor([["C"], ["B"]], [2, 1], "BYTES", "deck"),
    tensor([16.3, 7], [2, 1], name="fare"),
]


def test_columns_in_any_order(titanic: Asked) -> None:
    sent = [
        {"age": 48, "fare": 16.3, "sex": "male", "deck": "C"},
        {"age": 16.5, "fare": 7, "sex": "female", "deck": "B"},
    ]
    rows = titanic.model.spec.rows(sent)
    answer = titanic.answer({"inputs": COLUMNS})
    assert outputs(answer)["probabilities"] == titanic.model.predict(rows).ravel().tolist()
    assert outputs(answer)["label"] == titanic.model.predict_label(rows)
    binary = [
        binary_tensor(len(texts(b"male", b"female")), [2, 1], "BYTES", "sex"),
        COLUMNS[1],
        binary_tensor(10, [2, 1], "BYTES", "deck"),
        binary_tensor(8, [2, 1], name="fare"),
    ]
    data = texts(b"male", b"female") + texts(b"C", b"B") + np.array([16.3, 7], "<f4").tobytes()
    assert titanic.answer({"inputs": binary}, data)["outputs"] == answer["outputs"]


def test_text(text: Asked) -> None:
    sentence = "the parcel was late and the cup is broken — größer"
    answer = text.answer({"inputs": [tensor([sentence], datatype="BYTES", name="text")]})
    data = texts(sentence.encode())
    assert (
        text.answer({"inputs": [binary_tensor(len(data), [1], "BYTES", "text")]}, data)["outputs"] == answer["outputs"]
    )


def test_binary_inputs_are_arrays_over_the_body(iris: Asked) -> None:
    """The address of the numbers is that of the body if it is aligned; otherwise they are copied to an aligned one."""
    data = np.array([SETOSA, VIRGINICA], "<f4")
    for padding in range(8):
        header = json.dumps({"inputs": [binary_tensor(32, [2, 4])]}).encode() + b" " * padding
        body = header + data.tobytes()
        rows = iris.rows(body, len(header))
        assert isinstance(rows, np.ndarray)
        assert rows.flags.aligned
        assert rows.tolist() == data.tolist()
        address = np.frombuffer(body, np.uint8).ctypes.data + len(header)
        assert (rows.ctypes.data == address) == (address % 4 == 0)


def test_binary_outputs(iris: Asked) -> None:
    expected = iris.model.predict(np.array([SETOSA, VIRGINICA], np.float32))
    labels = texts(b"setosa", b"virginica")
    for request in (
        {**FLAT, "parameters": {"binary_data_output": True}},
        {
            **FLAT,
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in ("probabilities", "label")],
        },
    ):
        assert outputs(iris.answer(request)) == {"probabilities": expected.tobytes(), "label": labels}
    mixed = {**FLAT, "outputs": [{"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities"}]}
    assert outputs(iris.answer(mixed)) == {"label": labels, "probabilities": expected.ravel().tolist()}


def test_classification(iris: Asked) -> None:
    request = {**FLAT, "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]}
    [output] = iris.answer(request)["outputs"]
    assert output == {
        "name": "probabilities",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["0.970671:0:setosa", "0.015920:1:versicolor", "0.979678:2:virginica", "0.014668:0:setosa"],
    }
    request["outputs"][0]["parameters"]["classification"] = 9
    assert iris.answer(request)["outputs"][0]["shape"] == [2, 3]


def test_content_types_of_mlserver(iris: Asked, titanic: Asked) -> None:
    expected = iris.answer(FLAT)["outputs"]
    assert iris.answer({**FLAT, "parameters": {"content_type": "np"}})["outputs"] == expected
    assert iris.answer({"inputs": [{**FLAT["inputs"][0], "parameters": {"content_type": "np"}}]})["outputs"] == expected
    # A data frame of 64-bit numbers, as MLServer's PandasCodec writes it.
    frame = [
        tensor(list(values), [2, 1], "FP64", name)
        for name, values in zip(iris.model.feature_names, zip(SETOSA, VIRGINICA, strict=True), strict=True)
    ]
    assert iris.answer({"inputs": frame[::-1], "parameters": {"content_type": "pd"}})["outputs"] == expected
    passengers = [{**item, "shape": [2]} for item in COLUMNS]
    passengers[1] = {**tensor([[48], [16]], [2, 1], "INT64", "age")}
    passengers[0]["parameters"] = {"content_type": "str"}
    passengers[2]["data"] = ["C", "B"]
    answer = titanic.answer({"inputs": passengers, "parameters": {"content_type": "pd"}})
    assert outputs(answer)["label"] == outputs(titanic.answer({"inputs": COLUMNS}))["label"]


def test_both_outputs_take_one_inference(iris: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    predict = iris.model._predictor.predict

    def counted(rows: Rows) -> Any:
        calls.append(len(rows))
        return predict(rows)

    monkeypatch.setattr(iris.model._predictor, "predict", counted)
    iris.answer(FLAT)
    assert calls == [2]
    iris.model.predict(np.array([SETOSA], np.float32))
    assert calls == [2, 1]


def with_input(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**tensor([SETOSA]), **changes}]}


REFUSED: dict[str, tuple[Any, str]] = {
    "no object": ([1], "The body is a list; expected an object with inputs."),
    "an unknown field": ({**FLAT, "input": 1}, 'The field "input" of the request is unknown; expected id, '),
    "an id": ({**FLAT, "id": 5}, "The id is 5; expected a string."),
    "another model": ({**FLAT, "model_name": "iris"}, 'The model_name is "iris"; expected "name".'),
    "no inputs": ({}, "The inputs are missing; expected a list of objects."),
    "empty inputs": ({"inputs": []}, 'The input "data" is missing; expected FP32 of the shape [-1, 4].'),
    "a string as an input": ({"inputs": ["data"]}, 'The inputs have "data"; expected objects.'),
    "an unknown input": (with_input(name="../etc"), 'The input "../etc" is unknown; expected "data".'),
    "no name": (with_input(name=None), 'The input null is unknown; expected "data".'),
    "an input twice": ({"inputs": [tensor([SETOSA])] * 2}, 'The input "data" appears twice; expected once.'),
    "a datatype": (with_input(datatype="FP64"), 'The datatype of the input "data" is "FP64"; expected "FP32".'),
    "a list as a datatype": (with_input(datatype=[]), 'The datatype of the input "data" is a list; expected "FP32".'),
    "no shape": (with_input(shape=None), 'The shape of the input "data" is missing; expected [-1, 4].'),
    "a width": (with_input(shape=[1, 5]), 'The shape of the input "data" is [1, 5]; expected [-1, 4].'),
    "a dimension": (with_input(shape=[4]), 'The shape of the input "data" is [4]; expected [-1, 4].'),
    "zero rows": (with_input(shape=[0, 4], data=[]), 'The shape of the input "data" is [0, 4]; expected [-1, 4].'),
    "negative rows": (with_input(shape=[-1, 4]), 'The shape of the input "data" is [-1, 4]; expected [-1, 4].'),
    "many rows": (with_input(shape=[2**62, 4]), 'The data of the input "data" has the shape [1, 4]; expected [4611'),
    "many flat rows": (
        with_input(shape=[2**62, 4], data=SETOSA),
        f'The data of the input "data" has 4 values; expected {2**64}, as its shape says.',
    ),
    "a float as a shape": (with_input(shape=[1.0, 4]), 'The shape of the input "data" is [1.0, 4]; expected [-1, 4].'),
    "no data": (with_input(data=None), 'The data of the input "data" is missing; expected a list.'),
    "a string": (with_input(data=[*SETOSA[:3], "1"]), '"data"[0][3] is a string; expected a number from -3.4'),
    "a nested string": (with_input(data=[["1", 2, 3, 4]]), '"data"[0][0] is a string; expected a number from -3.4'),
    "nested twice": (with_input(data=[[[1], 2, 3, 4]]), '"data"[0][0] is a list; expected a number from -3.4'),
    "a large number": (with_input(data=[1, 2, 3, 1e300]), '"data"[0][3] is 1e+300; expected a number from -3.4'),
    "a boolean": (with_input(data=[1, 2, 3, True]), '"data"[0][3] is a boolean; expected a number from -3.4'),
    "a field of an input": (with_input(dat=1), 'The field "dat" of the input "data" is unknown; expected data, '),
    "parameters": (with_input(parameters=[1]), 'The parameters of the input "data" are a list; expected an object.'),
    "a codec": (
        with_input(parameters={"content_type": "datetime"}),
        'The "content_type" of the input "data" is "datetime"; expected "np" or "pd".',
    ),
    "an unknown output": (
        {**FLAT, "outputs": [{"name": "x"}]},
        'The output "x" is unknown; expected "probabilities", "label".',
    ),
    "an output twice": ({**FLAT, "outputs": [{"name": "label"}] * 2}, 'The output "label" appears twice; expected '),
    "outputs": ({**FLAT, "outputs": "label"}, 'The outputs are "label"; expected a list of objects.'),
    "a string as a flag": (
        {**FLAT, "parameters": {"binary_data_output": "yes"}},
        'The parameter "binary_data_output" of the request is "yes"; expected true or false.',
    ),
    "classes of the label": (
        {**FLAT, "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
        'The output "label" has no classes; expected no parameter "classification".',
    ),
    "negative classes": (
        {**FLAT, "outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]},
        'The parameter "classification" of the output "probabilities" is -1; expected a number of classes.',
    ),
}


@pytest.mark.parametrize(("document", "sentence"), REFUSED.values(), ids=REFUSED)
def test_refused(iris: Asked, document: object, sentence: str) -> None:
    assert iris.refusal(document).startswith(sentence)


def test_refused_columns(titanic: Asked) -> None:
    short = [*COLUMNS[:3], tensor([16.3], [1, 1], name="fare")]
    assert titanic.refusal({"inputs": short}) == 'The input "fare" has 1 rows; expected 2, as in "sex".'
    missing = {"inputs": COLUMNS[:3]}
    assert titanic.refusal(missing) == 'The input "fare" is missing; expected FP32 of the shape [-1, 1].'
    number = [{**COLUMNS[0], "data": ["male", 5]}, *COLUMNS[1:]]
    assert titanic.refusal({"inputs": number}) == '"sex"[1][0] is 5; expected a string.'


NAN, INF = float("nan"), float("inf")
SIZE = 'The "binary_data_size" of the input "data" is '
LIES: dict[str, tuple[Any, list[int], bytes, str]] = {
    "a size beyond the body": (64, [4, 4], bytes(32), f"{SIZE}64; expected at most the 32 bytes that are left"),
    "a huge size": (2**63, [1, 4], bytes(16), f"{SIZE}9223372036854775808; expected at most the 16 bytes"),
    "a negative size": (-16, [1, 4], bytes(16), f"{SIZE}-16; expected at most the 16 bytes"),
    "a string as a size": ("16", [1, 4], bytes(16), f'{SIZE}"16"; expected at most the 16 bytes'),
    "a true size": (True, [1, 4], bytes(16), f"{SIZE}a boolean; expected at most the 16 bytes"),
    "a size that is not the shape's": (16, [2, 4], bytes(16), 'The input "data" has 16 bytes; expected 32, 4 for each'),
    "a product that overflows": (16, [2**62, 4], bytes(16), f'The input "data" has 16 bytes; expected {2**66}, 4'),
    "bytes after the last tensor": (16, [1, 4], bytes(20), "The body has 4 bytes after its last tensor; expected"),
    "NaN": (16, [1, 4], struct.pack("<4f", 1, 2, NAN, 4), '"data"[0][2] is nan; expected a number from -3.4'),
    "infinity": (16, [1, 4], struct.pack("<4f", 1, -INF, 3, 4), '"data"[0][1] is -inf; expected a number from -3.4'),
}


@pytest.mark.parametrize(("size", "shape", "data", "sentence"), LIES.values(), ids=LIES)
def test_binary_sizes_that_lie(iris: Asked, size: Any, shape: list[int], data: bytes, sentence: str) -> None:
    assert iris.refusal({"inputs": [binary_tensor(size, shape)]}, data).startswith(sentence)


TEXT_LIES = {
    "a length past the end": (b"\xff\xff\xff\xffaaaaaaaa", 1, "has a string 0 of 4294967295 bytes, but 8 are left."),
    "more texts than bytes": (texts(b"a"), 2**40, "has 5 bytes; expected 1099511627776 strings, each after its length"),
    "fewer texts than the shape": (texts(b"aaaaaaaa"), 3, "ends before the length of string 1."),
    "bytes after the last text": (texts(b"a") + b"b", 1, "has 1 bytes after its last string; expected none."),
    "half a length": (texts(b"a") + b"\0\0\0", 2, "ends before the length of string 1."),
    "no UTF-8": (texts(b"\xff"), 1, "has a string 0 that is not UTF-8."),
}


@pytest.mark.parametrize(("data", "rows", "sentence"), TEXT_LIES.values(), ids=TEXT_LIES)
def test_text_lengths_that_lie(text: Asked, data: bytes, rows: int, sentence: str) -> None:
    request = {"inputs": [binary_tensor(len(data), [rows], "BYTES", "text")]}
    assert text.refusal(request, data).startswith(f'The input "text" {sentence}')


def test_binary_and_json_data_exclude_each_other(iris: Asked) -> None:
    both = {**tensor([SETOSA]), "parameters": {"binary_data_size": 16}}
    assert iris.refusal({"inputs": [both]}, bytes(16)).startswith('The input "data" has both "data" and')
    assert "has no Inference-Header-Content-Length" in iris.refusal({"inputs": [binary_tensor(16, [1, 4])]})


@pytest.mark.parametrize("length", [b"1000", b"-1", b"+1", b"1e2", b" 5", b"", b"9" * 5000, "²".encode("latin-1")])
def test_json_lengths_that_lie(iris: Asked, length: bytes) -> None:
    body = json.dumps(FLAT).encode()
    with pytest.raises(
        BodyError, match=f"^The Inference-Header-Content-Length is .*; expected at most the {len(body)} bytes"
    ):
        iris.protocol.read(body, {JSON_LENGTH: length}, b"id")


@pytest.mark.parametrize("length", [0, 20])
def test_json_lengths_within_the_json(iris: Asked, length: int) -> None:
    with pytest.raises(BodyError, match=r"^The body is not valid JSON: "):
        iris.rows(json.dumps(FLAT).encode(), length)


@pytest.mark.parametrize(
    ("answers", "datatype", "data"),
    [
        (np.array([[1], [2]], ">f4"), "FP32", struct.pack("<2f", 1, 2)),
        (np.array([1, 2], np.longlong), "INT64", struct.pack("<2q", 1, 2)),
        ([0.5, 1.5], "FP64", struct.pack("<2d", 0.5, 1.5)),
        (np.array([True, False]), "BOOL", b"\1\0"),
        (np.array([1, 2], np.float16), "FP16", b"\0\x3c\0\x40"),
    ],
    ids=str,
)
def test_edited_methods_may_return_any_numbers(iris: Asked, answers: Any, datatype: str, data: bytes) -> None:
    for is_binary in (False, True):
        ask = Ask("1", [OutputAsk("probabilities", is_binary)], ["probabilities"])
        body, headers = iris.protocol.write(Outputs({"probabilities": answers}, 2), ask)
        size = int(dict(headers).get(JSON_LENGTH, len(body)))
        [output] = json.loads(body[:size])["outputs"]
        assert output["datatype"] == datatype
        assert body[size:] == (data if is_binary else b"")
        assert is_binary or output["data"] == np.asarray(answers).ravel().tolist()


def test_other_answers_of_edited_methods_are_errors(iris: Asked) -> None:
    ask = Ask("1", [OutputAsk("probabilities")], ["probabilities"])
    with pytest.raises(TypeError, match="the method for probabilities returned <U1; expected numbers"):
        iris.protocol.write(Outputs({"probabilities": ["a"]}, 1), ask)


def test_boolean_tensors() -> None:
    assert decode(b"\1\0", 0, 2, "BOOL", (2,)).tolist() == [True, False]
    with pytest.raises(TensorError, match="neither 0 nor 1"):
        decode(b"\1\2", 0, 2, "BOOL", (2,))


@pytest.mark.parametrize(
    ("field", "again"),
    [("inputs", b'"inputs": [], '), ("id", b'"id": "1", "id": "1", '), ("i", b'"\\u0069d": "1", "id": "1", ')],
)
def test_fields_that_appear_twice(iris: Asked, field: str, again: bytes) -> None:
    body = json.dumps(FLAT).encode().replace(b"{", b"{" + again, 1)
    with pytest.raises(BodyError, match=rf'^The field "{field}\w*" appears twice; expected once\.$'):
        iris.rows(body)


HOSTILE = {
    "brackets": b"[" * 100_000,
    "objects": b'{"inputs":' * 100_000,
    "data 100 000 deep": b'{"inputs": [{"name": "data", "shape": [1, 4], "datatype": "FP32", "data": ' + b"[" * 100_000,
    "a number of 1 MiB": b'{"inputs": ' + b"9" * (1 << 20) + b"}",
    "100 000 inputs": json.dumps({"inputs": [tensor([SETOSA])] * 100_000}).encode(),
    "100 000 unknown inputs": json.dumps({"inputs": [{"name": str(index)} for index in range(100_000)]}).encode(),
    "100 000 outputs": json.dumps({**FLAT, "outputs": [{"name": "label"}] * 100_000}).encode(),
    "100 000 dimensions": json.dumps({"inputs": [tensor([SETOSA], [1] * 100_000)]}).encode(),
    "100 000 fields": json.dumps({str(index): 0 for index in range(100_000)}).encode(),
    "empty rows": json.dumps({"inputs": [tensor([[]] * 100_000, [100_000, 4])]}).encode(),
    "a lone surrogate": b'{"inputs": [{"name": "\\ud800"}]}',
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(FLAT).encode(),
    "NUL": json.dumps(FLAT).encode() + b"\0",
    "two documents": json.dumps(FLAT).encode() * 2,
    "a long name": json.dumps({"inputs": [tensor([SETOSA], name="x" * 100_000)]}).encode(),
    "a large id": b'{"id": ' + b"9" * 400 + b"}",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies_are_refused_at_once_in_a_short_sentence(iris: Asked, body: bytes) -> None:
    began = time.process_time()
    with pytest.raises((BodyError, InvalidRowsError)) as refused:
        iris.rows(body)
    assert time.process_time() - began < 3
    assert len(str(refused.value)) < 300


NUMBERS = st.one_of(st.floats(width=32), st.integers(-3, 3), st.sampled_from([None, True, "1", 1e39, 2**70, [1], 1.5]))
ROWS = st.lists(st.lists(NUMBERS, min_size=3, max_size=4), max_size=3)
FRAGMENTS = st.fixed_dictionaries(
    {"name": st.sampled_from(["data", "x"]), "datatype": st.sampled_from(["FP32", "FP64"])},
    optional={
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 4, 4.0]), max_size=3) | st.just([1, 4]) | st.just([2, 4]),
        "data": ROWS | st.lists(NUMBERS, max_size=8) | st.just(SETOSA),
        "parameters": st.sampled_from(
            [None, {}, {"binary_data_size": 16}, {"binary_data_size": 32}, {"content_type": "np"}]
        ),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(FRAGMENTS, min_size=1, max_size=2)},
    optional={
        "id": st.sampled_from(["a", "", None, 1]),
        "model_name": st.sampled_from(["name", "x", None]),
        "parameters": st.sampled_from([None, {}, {"binary_data_output": True}, {"binary_data_output": 1}]),
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["label", "probabilities", "x"])},
                optional={"parameters": st.sampled_from([None, {"binary_data": True}, {"classification": 1}])},
            ),
            max_size=2,
        ),
    },
)


@given(REQUESTS, st.sampled_from([None, b"", struct.pack("<4f", *SETOSA), bytes(32), struct.pack("<4f", 1, NAN, 3, 4)]))
@settings(max_examples=300)
def test_usual_requests_are_read_as_all_others(iris: Asked, document: dict[str, Any], binary: bytes | None) -> None:
    header = json.dumps(document).encode()
    body = header + (binary or b"")
    start = None if binary is None else len(header)
    usual = iris.protocol._usual.read(header, body, start)
    if usual is not None:
        rows, given_id, outputs = usual
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(iris.protocol._usual, "read", lambda *_: None)
            strict, ask = iris.protocol.read(body, {} if start is None else {JSON_LENGTH: b"%d" % start}, b"")
        assert isinstance(rows, np.ndarray)
        assert isinstance(strict, np.ndarray)
        assert np.array_equal(rows, strict)
        assert rows.dtype == strict.dtype
        assert (given_id or "", list(outputs)) == (ask.id, list(ask.outputs))
