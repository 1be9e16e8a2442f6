"""The newest ONNX format that the locked version of ONNX Runtime supports; a test verifies it."""

import json
from importlib.metadata import version

from volume.onnx_file import OnnxInfo

NEWEST = OnnxInfo(ir_version=14, opsets={"ai.onnx": 28, "ai.onnx.ml": 5})


def describe_version(*, as_json: bool) -> str:
    """Return the versions of the service's dependencies and of the ONNX formats that it supports."""
    facts = {
        "onnxruntime": version("onnxruntime"),
        "bentoml": version("bentoml"),
        "max_ir_version": NEWEST.ir_version,
        "max_opset": NEWEST.opsets_text,
    }
    if as_json:
        return json.dumps(facts, indent=2)
    return "\n".join(f"{name.ljust(15)} {fact}" for name, fact in facts.items())
