"""A pin is the identity of all files of a model."""

import pytest

from loader.errors import IntegrityError
from loader.verification.identity import check_identity
from volume.identity import model_identity
from volume.receipt import FileRecord

MODEL = FileRecord(name="model.onnx", uri="gs://b/m", version="1", size=1, sha256="ab" * 32)
WEIGHTS = FileRecord(name="w", uri="gs://b/w", version="1", size=1, sha256="cd" * 32)
BOTH = model_identity("ab" * 32, {"w": "cd" * 32})


@pytest.mark.parametrize("expected", ["", "AB" * 32])
def test_a_model_in_one_file(expected: str) -> None:
    assert check_identity(MODEL, [], expected) == "ab" * 32


@pytest.mark.parametrize("expected", ["", BOTH.upper()])
def test_a_model_in_several(expected: str) -> None:
    assert check_identity(MODEL, [WEIGHTS], expected) == BOTH


@pytest.mark.parametrize(
    ("external_data", "expected", "code", "finding"),
    [
        ([], "ef" * 32, "digest-mismatch", "gs://b/m has the sha256 abab"),
        ([WEIGHTS], "ef" * 32, "digest-mismatch", f"gs://b/m has the identity {BOTH}, but MODEL_SHA256 is efef"),
        ([WEIGHTS], "ab" * 32, "digest-incomplete", f"in 1 more file: set it to {BOTH}, the identity of all of them"),
    ],
)
def test_another_pin_is_refused(external_data: list[FileRecord], expected: str, code: str, finding: str) -> None:
    with pytest.raises(IntegrityError) as refused:
        check_identity(MODEL, external_data, expected)
    assert (refused.value.code, finding in str(refused.value)) == (code, True)
