"""The manifests for KServe, and a model that the loader and the service handle as KServe runs them."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from benchmarks.environments import environment_of
from tests.support.processes import ROOT

DIRECTORY = ROOT / "k8s" / "kserve"
MANIFESTS = {
    name: yaml.safe_load((DIRECTORY / f"{name}.yml").read_text())
    for name in ("serving-runtime", "storage-container", "inference-service")
}
[SERVER] = MANIFESTS["serving-runtime"]["spec"]["containers"]
STORAGE = MANIFESTS["storage-container"]["spec"]
PREDICTOR = MANIFESTS["inference-service"]["spec"]["predictor"]


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
