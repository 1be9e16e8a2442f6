"""A model is refused if its versions are too new for the service."""

import pytest

from loader.errors import IntegrityError
from loader.verification.compatibility import check_compatibility
from volume.onnx_file import OnnxInfo

MODEL = OnnxInfo(ir_version=10, opsets={"ai.onnx": 21, "ai.onnx.ml": 3, "com.example": 7})


@pytest.mark.parametrize(
    ("ir_version", "opset"), [(None, ""), (10, "21,ai.onnx.ml:3"), (14, "28,ai.onnx.ml:5"), (None, "another:1")]
)
def test_an_older_or_equal_model_is_accepted(ir_version: int | None, opset: str) -> None:
    check_compatibility(MODEL, "gs://b/m", ir_version, opset)


def test_everything_that_is_too_new_is_named() -> None:
    with pytest.raises(IntegrityError) as refused:
        check_compatibility(MODEL, "gs://b/m", 9, "20,ai.onnx.ml:3,com.example:6")
    assert refused.value.code == "model-too-new"
    assert str(refused.value) == (
        "gs://b/m is too new for the service, with IR version 10 (MAX_IR_VERSION is 9) and opset 21 of ai.onnx "
        "(MAX_OPSET allows 20) and opset 7 of com.example (MAX_OPSET allows 6): export it for an older version, or "
        "roll out a newer service first"
    )
