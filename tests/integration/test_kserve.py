"""The manifests for KServe, and a model that the loader and the service handle as KServe runs them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from benchmarks.environments import environment_of
from model_server.errors import StartError
from model_server.model.model import Model
from model_server.settings import Settings
from tests.support.classifiers import classifier, expected
from tests.support.processes import ONE_PROCESS, ROOT, interpreter, serving
from volume.receipt import Receipt

DIRECTORY = ROOT / "k8s" / "kserve"
MANIFESTS = {
    name: yaml.safe_load((DIRECTORY / f"{name}.yml").read_text())
    for name in ("serving-runtime", "storage-container", "inference-service")
}
[SERVER] = MANIFESTS["serving-runtime"]["spec"]["containers"]
STORAGE = MANIFESTS["storage-container"]["spec"]
PREDICTOR = MANIFESTS["inference-service"]["spec"]["predictor"]
ROWS = [[1, 2, 3, 4], [0, 1, 0, 1]]


def test_containers_have_the_restrictions_and_probes_of_the_deployment() -> None:
    pod = yaml.safe_load((ROOT / "k8s/base/deployment.yml").read_text())["spec"]["template"]["spec"]
    of_the_pod = {name: value for name, value in pod["securityContext"].items() if name != "fsGroup"}
    for ours, theirs in ((SERVER, pod["containers"][0]), (STORAGE["container"], pod["initContainers"][0])):
        assert ours["securityContext"] == of_the_pod | theirs["securityContext"]
        assert ours["resources"] == theirs["resources"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe: dict[str, Any] = pod["containers"][0][name]
        assert SERVER[name] == probe | {"httpGet": {**probe["httpGet"], "port": 8080}}


def test_existing_services_keep_their_runtime_and_loader() -> None:
    [form] = MANIFESTS["serving-runtime"]["spec"]["supportedModelFormats"]
    assert form["autoSelect"] is False
    [uris] = STORAGE["supportedUriFormats"]
    assert re.search(uris["regex"], PREDICTOR["model"]["storageUri"])
    for uri in ("gs://models/iris/model.onnx", "s3://models/iris", "https://example.com/m.onnx", "hf://a/b#sha256=00"):
        assert not re.search(uris["regex"], uri)


def test_the_example_names_the_runtime_and_the_loader() -> None:
    assert PREDICTOR["model"]["runtime"] == MANIFESTS["serving-runtime"]["metadata"]["name"]
    assert PREDICTOR["storageContainerName"] == MANIFESTS["storage-container"]["metadata"]["name"]


def test_loader_and_service_share_a_directory(tmp_path: Path) -> None:
    """The service serves what the loader has brought from a directory, as KServe calls both."""
    source, mount = tmp_path / "source", tmp_path / "models"
    source.mkdir()
    mount.mkdir()
    model = onnx.load_from_string(classifier().SerializeToString())
    onnx.save(model, source / "pets.onnx", save_as_external_data=True, location="pets.weights", size_threshold=60)
    (source / "config.pbtxt").write_text("name: 'pets'")
    subprocess.run([interpreter("loader"), "-m", "loader", source, mount], cwd=ROOT, check=True, capture_output=True)
    receipt = Receipt.read(mount)
    assert receipt
    assert {record.name for record in receipt.files} == {"pets.onnx", "pets.weights", "config.pbtxt"}
    variables = {variable["name"]: variable["value"].replace("{{.Name}}", "zoo") for variable in SERVER["env"]}
    variables["MODEL_FILEPATH"] = str(mount)
    with serving(tmp_path, variables, command=ONE_PROCESS) as server:
        np.testing.assert_allclose(server.predict(ROWS), expected(np.array(ROWS)), atol=1e-6)
        assert server.client.get("/label").json() == {"0": "0", "1": "1", "2": "2"}
        assert server.client.get("/metadata").headers["etag"] == f'"{receipt.identity}"'
        assert server.client.get("/v2/models/zoo").json()["versions"] == [receipt.identity[:12]]
    (mount / "label.json").write_text('{"0": "of", "1": "another", "2": "model"}')
    assert list(Model.load(Settings.read({"MODEL_FILEPATH": str(mount)})).labels.values()) == ["0", "1", "2"]
    (mount / "config.pbtxt").chmod(0o644)
    (mount / "config.pbtxt").write_text("name: 'zoo!'")
    with pytest.raises(StartError, match="load it again"):
        Model.load(Settings.read({"MODEL_FILEPATH": str(mount)}))


@pytest.mark.nightly
def test_the_models_of_kserve_know_every_field() -> None:
    read = subprocess.run(
        [
            environment_of("kserve-model", ROOT / "benchmarks" / "server" / "peers" / "kserve_model.py"),
            ROOT / "tests" / "support" / "kserve_models.py",
        ],
        input=json.dumps(list(MANIFESTS.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.stderr == ""
    assert read.stdout.splitlines() == [
        f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in MANIFESTS.values()
    ]
