"""A model's identity: one sha256 that changes if and only if one of its files changes."""

import hashlib
from collections.abc import Mapping


def model_identity(sha256: str, external_data: Mapping[str, str]) -> str:
    """Return the identity of a model, in hexadecimal.

    The identity of a model in one file is the file's sha256. With external data, it is the sha256 of the lines that
    `sha256sum` prints for the ONNX file on standard input and for the other files by name, in the order of
    `LC_ALL=C sort`. So it does not depend on the name of the ONNX file, and a shell can compute it:
    `{ sha256sum <model.onnx; sha256sum model.onnx.data; } | sha256sum`.

    Args:
        sha256: the sha256 of the ONNX file in hexadecimal.
        external_data: the sha256 of each other file by its path relative to the model's directory.
    """
    if not external_data:
        return sha256
    lines = [f"{sha256}  -", *(f"{digest}  {name}" for name, digest in sorted(external_data.items()))]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
