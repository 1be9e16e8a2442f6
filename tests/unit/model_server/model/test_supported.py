"""The declared newest ONNX format is the newest that ONNX Runtime opens, and all documents name the same."""

import json
import re
import subprocess

import onnxruntime as ort
import pytest
import yaml
from onnx import TensorProto, helper

from model_server.model.supported import NEWEST
from tests.support.documents import DOCUMENTS
from tests.support.processes import ROOT, interpreter
from volume.onnx_file import parse_opsets


def opens(ir_version: int, opsets: dict[str, int]) -> bool:
    """Return whether ONNX Runtime opens a model with these format versions."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    imports = [helper.make_opsetid("" if domain == "ai.onnx" else domain, number) for domain, number in opsets.items()]
    made = helper.make_model(graph, ir_version=ir_version, opset_imports=imports)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 (ONNX Runtime's errors share no other base class)
        return False
    return True


def test_onnx_runtime_opens_the_newest_format() -> None:
    assert opens(NEWEST.ir_version, NEWEST.opsets)


def test_onnx_runtime_opens_nothing_newer() -> None:
    assert not opens(NEWEST.ir_version + 1, NEWEST.opsets)
    for domain in NEWEST.opsets:
        assert not opens(NEWEST.ir_version, {**NEWEST.opsets, domain: NEWEST.opsets[domain] + 1})


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_the_version_is_printed(flags: tuple[str, ...]) -> None:
    printed = subprocess.run(
        [interpreter("service"), "-m", "model_server", "version", *flags],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    facts = json.loads(printed) if flags else dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert facts == {
        "onnxruntime": ort.__version__,
        "bentoml": facts["bentoml"],
        "max_ir_version": NEWEST.ir_version if flags else str(NEWEST.ir_version),
        "max_opset": NEWEST.opsets_text,
    }


def test_manifests_and_image_name_the_same_versions() -> None:
    settings = dict(
        line.split("=", 1)
        for line in (ROOT / "k8s/base/settings.env").read_text().splitlines()
        if not line.startswith("#")
    )
    kserve = yaml.safe_load((ROOT / "k8s/kserve/storage-container.yml").read_text())["spec"]["container"]["env"]
    for variables in (settings, {variable["name"]: variable["value"] for variable in kserve}):
        assert int(variables["MAX_IR_VERSION"]) == NEWEST.ir_version
        assert parse_opsets(variables["MAX_OPSET"]) == NEWEST.opsets
    labels = dict(re.findall(r'model-load\.([a-z-]+)="([^"]*)"', (ROOT / "Dockerfile.template").read_text()))
    assert labels == {"max-ir-version": str(NEWEST.ir_version), "max-opset": NEWEST.opsets_text}


def test_documents_name_the_same_versions() -> None:
    [row] = re.findall(
        r"^\| `Unreleased` \| ([\d.]+) \| (\d+) \| (\d+) \| (\d+) \|$", DOCUMENTS["docs/deployment.md"], re.MULTILINE
    )
    assert row == (ort.__version__, str(NEWEST.ir_version), *map(str, NEWEST.opsets.values()))
