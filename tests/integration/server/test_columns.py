"""Models with named columns, text and tokens, served as skl2onnx and other tools export them."""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from tests.support.classifiers import save
from tests.support.pipelines import (
    LABELS,
    PASSENGER,
    PORTS,
    SEXES,
    STRINGS,
    TOPICS,
    passengers,
    probabilities,
    sums,
    text_classifier,
    text_probabilities,
    titanic,
    tokens,
)
from tests.support.processes import (
    ONE_PROCESS,
    ROOT,
    Server,
    children,
    in_new_interpreter,
    interpreter,
    service_environment,
    serving,
    until,
)


def variables(made: ModelProto, directory: Path, labels: list[str]) -> dict[str, str]:
    model_path, label_path = save(made, directory, labels)
    return {"MODEL_FILEPATH": str(model_path), "LABEL_FILEPATH": str(label_path)}


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("columns")
    with serving(directory, variables(titanic(), directory, LABELS), command=ONE_PROCESS) as server:
        yield server


def refusal(server: Server, data: object) -> str:
    answer = server.client.post("/predict", json={"data": data})
    assert answer.status_code == 400
    detail: str = answer.json()["detail"]
    return detail


def test_columns_are_answered_like_scikit_learn(columns: Server) -> None:
    frame = passengers(200, seed=1)
    rows = frame.to_dict("records")
    expected = probabilities(frame)
    np.testing.assert_allclose(columns.predict(rows), expected, atol=1e-5)
    np.testing.assert_allclose(columns.predict(frame.to_numpy().tolist()), expected, atol=1e-5)
    for index in range(3):
        np.testing.assert_allclose(columns.predict(rows[index : index + 1]), expected[index], atol=1e-5)
    names = [LABELS[index] for index in expected.argmax(axis=1)]
    assert columns.predict(rows, "/predict/label") == names


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([{**PASSENGER, "age": "31"}], "data[0].age is a string; expected a number from "),
        ([PASSENGER, {**PASSENGER, "sex": 1}], "data[1].sex is 1; expected a string."),
        ([{**PASSENGER, "siblings": 1.5}], "data[0].siblings is 1.5; expected a whole number from "),
        ([{**PASSENGER, "cabin": "B"}], 'data[0].cabin is unknown; expected "age", "fare", "siblings", "alone", "sex"'),
        ([{"age": 1}], "data[0].fare is missing; expected a number from "),
        ([[1, 2, 3]], "data[0] has length 3; expected 6 values, one for each input."),
        ({"age": [1, 2]}, "data is an object; expected a list of rows."),
    ],
)
def test_invalid_rows_are_reported(columns: Server, data: object, sentence: str) -> None:
    assert refusal(columns, data).startswith(sentence)


def test_repeated_names_are_refused(columns: Server) -> None:
    body = json.dumps({"data": [PASSENGER]}).replace('{"age"', '{"fare": 1, "age"')
    answer = columns.client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (400, {"detail": "data[0].fare appears twice; expected once."})


def test_metadata_is_by_input_name_and_its_sample_can_be_posted(columns: Server) -> None:
    metadata = columns.client.get("/metadata").json()
    assert metadata["data_type"] == {
        "age": "float32",
        "fare": "float32",
        "siblings": "int64",
        "alone": "bool",
        "sex": "string",
        "port": "string",
    }
    assert set(metadata["data_shape"].values()) == {"(1, 1)"}
    [sample] = metadata["data_sample"]
    assert (sample["sex"], sample["port"], sample["alone"]) == (SEXES[0], PORTS[0], False)
    answer = columns.predict([sample])
    assert [round(probability, 2) for probability in answer] == metadata["prediction_sample"]


def test_the_openapi_document_describes_both_row_formats(columns: Server) -> None:
    document = columns.client.get("/docs.json").json()
    request = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    by_name, in_order = request["properties"]["data"]["items"]["anyOf"]
    assert by_name["required"] == list(PASSENGER)
    assert by_name["properties"]["sex"] == {"type": "string"}
    assert by_name["properties"]["alone"]["anyOf"][0] == {"type": "boolean"}
    assert by_name["additionalProperties"] is False
    assert in_order["prefixItems"] == list(by_name["properties"].values())
    assert server_answers(columns, request["example"]["data"])


def server_answers(server: Server, data: list[Any]) -> bool:
    return server.client.post("/predict", json={"data": data}).status_code == 200


def test_clients_and_in_process_calls_accept_the_same_rows(columns: Server, tmp_path: Path) -> None:
    rows = passengers(3, seed=2).to_dict("records")
    in_order = [list(row.values()) for row in rows]
    script = f"""
import json
import bentoml
import numpy as np
rows, in_order = {rows!r}, {in_order!r}
with bentoml.SyncHTTPClient({columns.url!r}) as client:
    print(json.dumps([client.predict(data=data) for data in (rows, rows[:1], in_order)]))
from service import ModelLoadServer
service = ModelLoadServer()
print(json.dumps([service.predict(data).tolist() for data in (rows, in_order, np.array(in_order, object))]))
try:
    service.predict([{{"age": 1}}])
except bentoml.exceptions.InvalidArgument as error:
    print(error)
"""
    settings = variables(titanic(), tmp_path, LABELS)
    called = subprocess.run(
        [interpreter("service"), "-W", "ignore", "-c", script],
        env=service_environment(tmp_path, {**settings, "PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert called.returncode == 0, called.stderr[-2000:]
    by_client, in_process, refused = called.stdout.splitlines()
    answer = columns.predict(rows)
    one = columns.predict(rows[:1])
    assert [given["prediction"] for given in json.loads(by_client)] == [answer, one, answer]
    assert json.loads(in_process) == [answer, answer, answer]
    assert refused.startswith("data[0].fare is missing; expected a number")


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, variables(titanic("error"), tmp_path, LABELS), command=ONE_PROCESS) as server:
        assert server_answers(server, server.client.get("/metadata").json()["data_sample"])
        assert (
            refusal(server, [PASSENGER, {**PASSENGER, "port": "Bremen"}])
            == "data[1].port is 'Bremen', which the model does not support; "
            "expected 'Cherbourg', 'Queenstown', 'Southampton'."
        )


def test_text(tmp_path: Path) -> None:
    strings = [text for text, _ in STRINGS] + ['The MOON and \\ the "Team"', "", "\U0001f680 \0 moon"]
    with serving(tmp_path, variables(text_classifier(), tmp_path, TOPICS), command=ONE_PROCESS) as server:
        metadata = server.client.get("/metadata").json()
        assert (metadata["data_type"], metadata["data_shape"]) == ("string", "(1, 1)")
        assert server_answers(server, metadata["data_sample"])
        np.testing.assert_allclose(server.predict([[text] for text in strings]), text_probabilities(strings), atol=1e-5)
        assert server.predict([[strings[0]]], "/predict/label") == "space"
        assert refusal(server, ["text"]) == "data[0] is a string; expected a list of 1 strings."
        assert refusal(server, [[5]]) == "data[0][0] is 5; expected a string."
        surrogate = server.client.post(
            "/predict", content=b'{"data": [["\\ud800"]]}', headers={"content-type": "application/json"}
        )
        assert surrogate.status_code == 400


def test_text_with_a_locale(tmp_path: Path) -> None:
    """The model is refused if the locale is missing, and served if the locale exists as C.UTF-8, as in the image."""
    environment = variables(text_classifier("en_US.UTF-8"), tmp_path, TOPICS)
    locales = tmp_path / "locales"
    locales.mkdir()
    checked = subprocess.run(
        [interpreter("service"), "-m", "model_server", "check", environment["MODEL_FILEPATH"]],
        env=service_environment(tmp_path, {"PYTHONPATH": str(ROOT), "LOCPATH": str(locales)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert "localedef -i en_US -f UTF-8 en_US.UTF-8" in checked.stdout
    (locales / "en_US.utf8").symlink_to("/usr/lib/locale/C.utf8")
    with serving(tmp_path, {**environment, "LOCPATH": str(locales)}, command=in_new_interpreter(ONE_PROCESS)) as server:
        strings = ["The MOON", "a MATCH"]
        np.testing.assert_allclose(server.predict([[text] for text in strings]), text_probabilities(strings), atol=1e-5)


def test_two_numeric_inputs(tmp_path: Path) -> None:
    with serving(tmp_path, variables(sums(), tmp_path, ["a", "b", "c"]), command=ONE_PROCESS) as server:
        answer = server.predict([{"three": [1, 2, 3], "one": 5}, [5, [1, 2, 3]]])
        expected = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
        np.testing.assert_allclose(answer, [expected, expected], atol=1e-6)
        assert server.client.get("/metadata").json()["data_sample"] == [{"one": 0.0, "three": [0.0, 0.0, 0.0]}]


def test_tokens_of_any_length(tmp_path: Path) -> None:
    with serving(tmp_path, variables(tokens(), tmp_path, ["a", "b"]), command=ONE_PROCESS) as server:
        for length in (1, 7, 100):
            row = {"input_ids": [3] * length, "attention_mask": [1] * length}
            assert np.allclose(server.predict([row, row]), server.predict([row]))
        beyond = {"input_ids": [3, 50, 4], "attention_mask": [1, 1, 1]}
        assert refusal(server, [beyond]) == (
            "data[0].input_ids[1] is 50, which the model does not support; expected a whole number from 0 to 49."
        )
        short = {"input_ids": [3], "attention_mask": [1]}
        assert refusal(server, [row, short]) == (
            "data[1].input_ids has length 1; expected 100 numbers, as in data[0].input_ids."
        )
        assert refusal(server, [{**row, "attention_mask": [1]}]) == (
            "data[0].attention_mask has length 1; expected 100, as in data[0].input_ids."
        )


def test_long_rows_do_not_occupy_threads_for_long(tmp_path: Path) -> None:
    """Clients that send very long rows get 504, their threads stop, and the server stays alive."""
    bounds = {"MAX_ROW_LENGTH": "1500", "REQUEST_TIMEOUT_SECONDS": "2"}
    with (
        serving(tmp_path, {**variables(tokens(64), tmp_path, ["a", "b"]), **bounds}, command=ONE_PROCESS) as server,
        ThreadPoolExecutor(8) as clients,
    ):
        row = {"input_ids": [3] * 1500, "attention_mask": [1] * 1500}
        assert server_answers(server, [row])
        too_long = {"input_ids": [3] * 1501, "attention_mask": [1] * 1501}
        assert refusal(server, [too_long]) == (
            "data[0].input_ids has length 1501; expected at most 1500 numbers (MAX_ROW_LENGTH)."
        )
        # These would take half a minute. They are encoded once, so that a busy machine sends them within the limit.
        many = json.dumps({"data": [row] * 500}).encode()
        headers = {"Content-Type": "application/json"}
        asked = [
            clients.submit(server.client.post, "/predict", content=many, headers=headers, timeout=30) for _ in range(8)
        ]
        assert {answer.result().status_code for answer in asked} <= {503, 504}
        assert server.client.get("/livez").status_code == 200
        until(lambda: server.client.get("/readyz").status_code == 200, seconds=5)
        assert server_answers(server, [row])


def test_memory_stays_bounded_with_ever_new_lengths(tmp_path: Path) -> None:
    with serving(tmp_path, variables(tokens(64), tmp_path, ["a", "b"]), command=ONE_PROCESS) as server:
        lengths = np.random.default_rng(0).permutation(np.arange(1, 601)).tolist()

        def grown(part: list[int]) -> int:
            for length in part:
                assert server_answers(server, [{"input_ids": [3] * length, "attention_mask": [1] * length}])
            return memory(server.process.pid)

        first, second = grown(lengths[:300]), grown(lengths[300:])
        assert second < first + (16 << 20)


def memory(process: int) -> int:
    """Return the memory in bytes of the process and its children."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (process, *children(process)))
    return pages * os.sysconf("SC_PAGE_SIZE")
