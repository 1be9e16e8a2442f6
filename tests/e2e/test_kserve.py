"""Both images in the pods that KServe makes of our resources, under podman."""

import copy
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Emulator
from tests.e2e.podman import Pod, playing
from tests.support import manifests
from tests.support.classifiers import classifier
from tests.support.manifests import Manifest, kustomize, one
from tests.support.processes import ROOT, interpreter

INITIALIZER = "storage-initializer"
MOUNT = {"name": "kserve-provision-location", "mountPath": "/mnt/models"}
IRIS = (ROOT / "models" / "iris_svc.onnx").read_bytes()
SETOSA = [5.1, 3.5, 1.4, 0.2]
LIST = "import os; print([os.path.join(at, name) for at, _, names in os.walk('/mnt/models') for name in names])"
# Asks the model of an InferenceService in binary tensors, and prints what the client received.
ASK = """
import json, sys
import numpy as np
from tritonclient import http

client = http.InferenceServerClient(sys.argv[1])
rows = http.InferInput("data", [1, 4], "FP32")
rows.set_data_from_numpy(np.array([json.loads(sys.argv[3])], np.float32))
answer = client.infer(sys.argv[2], [rows])
print(json.dumps({
    "ready": client.is_server_ready() and client.is_model_ready(sys.argv[2]),
    "versions": client.get_model_metadata(sys.argv[2])["versions"],
    "label": answer.as_numpy("label")[0].decode(),
    "probabilities": [round(float(p), 2) for p in answer.as_numpy("probabilities")[0]],
}))
"""


def deployment(resources: list[Manifest], name: str, uri: str, variables: dict[str, str]) -> Manifest:
    """Return the Deployment of an InferenceService, as KServe 0.21 creates it and its webhook changes it.

    Args:
        resources: those of `k8s/kserve`.
        name: the name of the InferenceService.
        uri: its storage URI.
        variables: more variables for the storage container.
    """
    runtime = one(resources, "ClusterServingRuntime")["spec"]
    loader = copy.deepcopy(one(resources, "ClusterStorageContainer")["spec"]["container"])
    [server] = json.loads(json.dumps(runtime["containers"]).replace("{{.Name}}", name))
    server["volumeMounts"].append({**MOUNT, "readOnly": True})
    loader |= {"args": [uri, "/mnt/models"], "volumeMounts": [{**MOUNT}]}
    added = {"HF_HUB_ENABLE_HF_TRANSFER": "1", "HF_XET_HIGH_PERFORMANCE": "1"}  # to every storage container
    loader["env"] += [{"name": name, "value": value} for name, value in (variables | added).items()]
    spec = {
        "initContainers": [loader],
        "containers": [server],
        "volumes": [*runtime["volumes"], {"name": MOUNT["name"], "emptyDir": {}}],
    }
    return {"kind": "Deployment", "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": spec}}}


Play = Callable[[str, str], AbstractContextManager[Pod]]


@pytest.fixture(scope="module")
def play(emulator: Emulator, network: str, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Return a function that runs the pod of an InferenceService with this name and URI below the bucket."""
    rendered = kustomize(manifests.copy(tmp_path_factory.mktemp("manifests")) / "kserve")
    resources = list(yaml.safe_load_all(rendered.stdout))
    variables = {"STORAGE_EMULATOR_HOST": emulator.url}
    bucket = emulator.bucket

    def run(name: str, path: str) -> AbstractContextManager[Pod]:
        return playing([deployment(resources, name, f"gs://{bucket.name}/{path}", variables)], network)

    return run


@pytest.fixture(scope="module")
def iris(play: Play, emulator: Emulator) -> Iterator[Pod]:
    """The pod of an InferenceService whose URI pins the iris model."""
    emulator.bucket.blob("kserve/iris/model.onnx").upload_from_string(IRIS)
    emulator.bucket.blob("kserve/iris/label.json").upload_from_filename(ROOT / "models" / "label.json")
    with play("iris", f"kserve/iris/model.onnx#sha256={hashlib.sha256(IRIS).hexdigest()}") as pod:
        pod.until_ready()
        yield pod


def test_a_pinned_model_is_served(iris: Pod) -> None:
    assert iris.client.get("/label").json() == {"0": "setosa", "1": "versicolor", "2": "virginica"}
    assert iris.client.get("/metadata").headers["etag"] == f'"{hashlib.sha256(IRIS).hexdigest()}"'
    answer = iris.client.post("/predict/label", json={"data": [SETOSA]})
    assert answer.json() == {"prediction": "setosa"}


def test_tritonclient_asks_for_the_model_by_the_name_of_its_service(iris: Pod) -> None:
    command = [interpreter("clients"), "-c", ASK, iris.client.base_url.netloc.decode(), "iris", json.dumps(SETOSA)]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert asked.stderr == ""
    assert json.loads(asked.stdout) == {
        "ready": True,
        "versions": [hashlib.sha256(IRIS).hexdigest()[:12]],
        "label": "setosa",
        "probabilities": [0.97, 0.02, 0.01],
    }


def test_the_volume_holds_plain_files_only(iris: Pod) -> None:
    assert sorted(eval(iris.python(LIST))) == [  # noqa: S307 (a list that the test printed)
        f"/mnt/models/{name}" for name in ("label.json", "model.onnx", "receipt.json")
    ]


def test_a_prefix_is_served_without_labels(play: Play, emulator: Emulator) -> None:
    for name, content in {"pets.onnx": classifier().SerializeToString(), "notes/config.pbtxt": b""}.items():
        emulator.bucket.blob(f"kserve/pets/{name}").upload_from_string(content)
    with play("pets", "kserve/pets") as pod:
        pod.until_ready()
        assert pod.client.get("/label").json() == {"0": "0", "1": "1", "2": "2"}
        assert len(pod.client.post("/predict", json={"data": [SETOSA]}).json()["prediction"]) == 3


@pytest.mark.parametrize(
    ("path", "exit_code", "code"),
    [
        (f"kserve/iris/model.onnx#sha256={'0' * 64}", 5, "digest-mismatch"),
        ("kserve/none/", 3, "object-missing"),
    ],
    ids=["another model", "no model"],
)
def test_a_refused_model_never_starts(play: Play, iris: Pod, path: str, exit_code: int, code: str) -> None:  # noqa: ARG001
    with play("refused", path) as pod:
        assert pod.state(INITIALIZER)["ExitCode"] == exit_code
        said: Any = json.loads(pod.logs(INITIALIZER).splitlines()[-1])
        assert said["code"] == code
        assert pod.state(pod.server)["Status"] == "created"
