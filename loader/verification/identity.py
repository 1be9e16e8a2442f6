"""Check of a model's identity, which covers all its files."""

from collections.abc import Sequence

from loader.errors import IntegrityError
from volume.identity import model_identity
from volume.receipt import FileRecord


def check_identity(model: FileRecord, external_data: Sequence[FileRecord], expected: str) -> str:
    """Return the model's identity.

    Raises:
        IntegrityError: the identity differs from `expected`, the value of `MODEL_SHA256`, and that is not empty.
    """
    identity = model_identity(model.sha256, {record.name: record.sha256 for record in external_data})
    expected = expected.lower()
    if expected in ("", identity):
        return identity
    if expected == model.sha256:
        others = len(external_data)
        raise IntegrityError(
            "digest-incomplete",
            f"MODEL_SHA256 is the sha256 of {model.uri} alone, but the model has external data in {others} "
            f"more file{'s' * (others > 1)}: set it to {identity}, the identity of all of them",
        )
    raise IntegrityError(
        "digest-mismatch",
        f"{model.uri} has the {'identity' if external_data else 'sha256'} {identity}, but MODEL_SHA256 is {expected}: "
        "correct the setting or the file",
    )
