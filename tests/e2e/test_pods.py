"""Both images in the pods of the manifests, under podman."""

import hashlib
import http.client
import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Emulator
from tests.e2e.podman import LOADER, SERVER, Pod, playing, podman
from tests.support.classifiers import classifier, expected, save
from tests.support.load import under_load
from tests.support.manifests import Manifest, one, render
from tests.support.nightly import ROUNDS
from tests.support.processes import ROOT, until
from tests.support.signing import Key, sign

Play = Callable[..., AbstractContextManager[Pod]]

IRIS = "iris/1/model.onnx"
PETS = "pets/1/model.onnx"
SETOSA = [5.1, 3.5, 1.4, 0.2]
PET_ROWS = [[1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]]
IN_FLIGHT = 32
SIGNER = Key()
BENTOML_SERVE = ("bentoml", "serve", "/app", "--host", "0.0.0.0", "--port", "3000")  # noqa: S104 (in a pod)
# Tries to write to read-only directories as the server's user.
WRITE = """
for directory in ("/", "/app", "/etc", "/workdir"):
    try:
        open(f"{directory}/written", "w")
        print("wrote to", directory)
    except OSError as error:
        print(error.strerror)
"""


@pytest.fixture(scope="module")
def settings(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings for the iris model; the bucket also has a very different model."""
    pets = save(classifier(classes=2, row_shape=(7,)), tmp_path_factory.mktemp("pets"), ["cat", "dog"])
    for blob, (model, labels) in {
        IRIS: (ROOT / "models" / "iris_svc.onnx", ROOT / "models" / "label.json"),
        PETS: pets,
    }.items():
        emulator.bucket.blob(blob).upload_from_filename(model)
        emulator.bucket.blob(f"{Path(blob).parent}/label.json").upload_from_filename(labels)
    return {"GCS_BUCKET": emulator.bucket.name, "GCS_MODEL_BLOB": IRIS, "STORAGE_EMULATOR_HOST": emulator.url}


@pytest.fixture(scope="module")
def local(network: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """The local overlay's pod."""
    with playing(render("local", tmp_path_factory.mktemp("local"), {}), network) as pod:
        pod.until_ready()
        yield pod


@pytest.fixture
def play(settings: dict[str, str], network: str, tmp_path: Path) -> Play:
    """Return a function that runs the pod of the Google Cloud Storage overlay with changed settings and command."""

    def with_changes(*command: str, **changes: str) -> AbstractContextManager[Pod]:
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        return playing(render("gcs", directory, {**settings, **changes}), network, command)

    return with_changes


def assert_serves_iris(pod: Pod) -> None:
    """Check that the five routes answer exactly as in the specification."""
    answers = {path: pod.client.get(path) for path in ("/health", "/metadata", "/label")}
    answers |= {path: pod.client.post(path, json={"data": [SETOSA]}) for path in ("/predict", "/predict/label")}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    bodies = {path: answer.json() for path, answer in answers.items()}
    probabilities = bodies.pop("/predict")["prediction"]
    assert [round(probability, 2) for probability in probabilities] == [0.97, 0.02, 0.01]
    assert math.isclose(sum(probabilities), 1, abs_tol=1e-6)
    assert bodies == {
        "/health": {"health": "ok"},
        "/metadata": {
            "data_type": "float32",
            "data_shape": "(1, 4)",
            "data_sample": [SETOSA],
            "prediction_type": "float32",
            "prediction_shape": "(1, 3)",
            "prediction_sample": [0.97, 0.02, 0.01],
        },
        "/label": {"0": "setosa", "1": "versicolor", "2": "virginica"},
        "/predict/label": {"prediction": "setosa"},
    }


def test_local_overlay_serves_iris(local: Pod) -> None:
    assert_serves_iris(local)


def test_first_process_is_python_without_privileges(local: Pod) -> None:
    status = dict(re.findall(r"^(\w+):\t(.*)$", local.python("print(open('/proc/1/status').read())"), re.MULTILINE))
    assert status["Name"].startswith("python")
    assert status["Uid"].split() == ["65532"] * 4
    assert status["Gid"].split() == ["65532"] * 4
    assert {name: int(mask, 16) for name, mask in status.items() if name.startswith("Cap")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_root_and_volume_are_read_only(local: Pod) -> None:
    assert local.python(WRITE).splitlines() == ["Read-only file system"] * 4


def test_the_environment_alone_selects_the_model(play: Play) -> None:
    with play() as pod:
        pod.until_ready()
        assert_serves_iris(pod)
        iris = one(pod.manifests, "ConfigMap")["metadata"]["name"], pod.client.get("/metadata").headers["etag"]
    with play(GCS_MODEL_BLOB=PETS) as pod:
        pod.until_ready()
        assert pod.client.get("/label").json() == {"0": "cat", "1": "dog"}
        answer = pod.client.post("/predict", json={"data": PET_ROWS}).json()["prediction"]
        np.testing.assert_allclose(answer, expected(np.array(PET_ROWS), 2), atol=1e-6)
        pets = one(pod.manifests, "ConfigMap")["metadata"]["name"], pod.client.get("/metadata").headers["etag"]
    assert not set(iris) & set(pets)


def test_token_of_the_metadata_server_opens_the_bucket(play: Play, google_cloud: str) -> None:
    environment = {
        "STORAGE_EMULATOR_HOST": "",
        "GCS_ENDPOINT": f"http://{google_cloud}",
        "GCE_METADATA_HOST": google_cloud,
        "GCE_METADATA_IP": google_cloud,
    }
    with play(**environment) as pod:
        pod.until_ready()
        assert_serves_iris(pod)
    with play(**environment, GCS_ANONYMOUS="true") as pod:
        assert pod.state(LOADER)["ExitCode"] == 4
        assert "401 Unauthorized" in pod.logs(LOADER)


def test_a_pinned_version_is_served_despite_a_newer_one(play: Play, emulator: Emulator) -> None:
    model, labels = emulator.bucket.blob("pinned/model.onnx"), emulator.bucket.blob("pinned/label.json")
    labels.upload_from_filename(ROOT / "models" / "label.json")
    model.upload_from_filename(ROOT / "models" / "iris_svc.onnx")
    generation = str(model.generation)
    model.upload_from_string(b"a newer, untested model")
    with play(GCS_MODEL_BLOB=model.name, GCS_MODEL_GENERATION=generation) as pod:
        pod.until_ready()
        assert_serves_iris(pod)


@pytest.mark.parametrize(
    ("change", "exit_code", "reason"),
    [
        ({"MODEL_SHA256": "0" * 64}, 5, r"has the sha256 [0-9a-f]{64}, but MODEL_SHA256 is 0{64}"),
        ({"GCS_MODEL_BLOB": "iris/9/model.onnx"}, 3, r"cannot look up gs://models/iris/9/model\.onnx: 404"),
    ],
    ids=["wrong sha256", "missing blob"],
)
def test_pod_without_its_model_never_starts(play: Play, change: dict[str, str], exit_code: int, reason: str) -> None:
    with play(**change) as pod:
        assert pod.state(LOADER)["ExitCode"] == exit_code
        assert re.search(reason, json.loads(pod.logs(LOADER).splitlines()[-1])["error"])
        assert pod.state(SERVER)["Status"] == "created"
        assert pod.state(SERVER)["StartedAt"].startswith("0001-01-01")


@pytest.fixture(scope="module")
def signed(settings: dict[str, str], emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What selects the iris model with a signature beside it."""
    directory = tmp_path_factory.mktemp("signed") / "iris"
    directory.mkdir()
    shutil.copy(ROOT / "models" / "iris_svc.onnx", directory / "model.onnx")
    shutil.copy(ROOT / "models" / "label.json", directory)
    sign(directory, SIGNER)
    for path in directory.iterdir():
        emulator.bucket.blob(f"signed/{path.name}").upload_from_filename(path)
    return {**settings, "GCS_MODEL_BLOB": "signed/model.onnx"}


def render_signed(directory: Path, settings: dict[str, str], key: Key) -> list[Manifest]:
    """Return the manifests of the signed overlay with this key."""
    manifests = render("signed", directory, settings)
    [keys] = [made for made in manifests if "keys.pem" in made.get("data", {})]
    keys["data"]["keys.pem"] = key.public_pem.decode()
    return manifests


def test_a_signed_model_is_served(signed: dict[str, str], network: str, tmp_path: Path) -> None:
    with playing(render_signed(tmp_path, signed, SIGNER), network) as pod:
        pod.until_ready()
        assert_serves_iris(pod)
        hint = hashlib.sha256(SIGNER.public_pem).hexdigest()
        assert f'signed_by="{hint}"' in pod.client.get("/metrics").text


@pytest.mark.parametrize(
    ("key", "blob", "code"),
    [
        (Key(), "signed/model.onnx", "signature-untrusted"),
        (None, "signed/model.onnx", "signature-untrusted"),
        (SIGNER, IRIS, "signature-missing"),
        (SIGNER, "changed/model.onnx", "signed-file-mismatch"),
    ],
    ids=["another key", "the key of the repository", "no signature", "another model"],
)
def test_a_model_with_a_wrong_signature_never_starts(  # noqa: PLR0917 (most are fixtures)
    signed: dict[str, str], emulator: Emulator, network: str, tmp_path: Path, key: Key | None, blob: str, code: str
) -> None:
    for name in ("model.sig", "label.json"):
        emulator.bucket.blob(f"changed/{name}").upload_from_string(
            emulator.bucket.blob(f"signed/{name}").download_as_bytes()
        )
    emulator.bucket.blob("changed/model.onnx").upload_from_string(classifier().SerializeToString())
    changed = {**signed, "GCS_MODEL_BLOB": blob}
    manifests = render_signed(tmp_path, changed, key) if key else render("signed", tmp_path, changed)
    with playing(manifests, network) as pod:
        assert pod.state(LOADER)["ExitCode"] == 5
        assert json.loads(pod.logs(LOADER).splitlines()[-1])["code"] == code
        assert pod.state(SERVER)["Status"] == "created"


def test_sigterm_drains_every_request_in_flight(play: Play) -> None:
    body = json.dumps({"data": [SETOSA] * 1000}).encode()
    with play() as pod:
        pod.until_ready()
        connections = [_accepted_request(pod, len(body)) for _ in range(IN_FLIGHT)]
        podman("kill", "--signal", "TERM", pod.container(SERVER))
        time.sleep(1)  # for the signal to be handled; if that takes longer, the test only becomes weaker
        for connection in connections:
            connection.send(body)
        for connection in connections:
            with connection.getresponse() as response:
                assert response.status == 200
                assert json.load(response) == {"prediction": ["setosa"] * 1000}
            connection.close()
        assert pod.exit_code() == 0


@pytest.mark.parametrize("_round", range(ROUNDS))
@pytest.mark.parametrize("command", [(), BENTOML_SERVE], ids=["one process", "bentoml serve"])
def test_sigterm_under_load(play: Play, command: Sequence[str], _round: int) -> None:
    """The first process of the container answers what it has accepted, and exits with 0."""
    with play(*command) as pod:
        pod.until_ready()
        with under_load(pod) as load:
            until(lambda: load.answered > 100, 60)
            podman("kill", "--signal", "TERM", pod.container(SERVER))
            assert pod.exit_code() == 0
        assert load.broken == []


def test_killed_server_process_ends_the_container(play: Play) -> None:
    with play() as pod:
        pod.until_ready()
        podman("kill", "--signal", "KILL", pod.container(SERVER))
        assert pod.exit_code() == 137


def _accepted_request(pod: Pod, length: int) -> http.client.HTTPConnection:
    """Return a connection with a request that the server has accepted and whose body is not sent yet."""
    connection = http.client.HTTPConnection(pod.client.base_url.host, pod.client.base_url.port, timeout=60)
    connection.putrequest("POST", "/predict/label")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(length))
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    assert connection.sock.recv(1000).startswith(b"HTTP/1.1 100 ")
    return connection
