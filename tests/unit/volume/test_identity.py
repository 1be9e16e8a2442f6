"""A model's identity covers all its files."""

import hashlib
import subprocess
from pathlib import Path

from volume.identity import model_identity


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_model_in_one_file_has_its_sha256() -> None:
    assert model_identity("a" * 64, {}) == "a" * 64


def test_each_file_and_each_name_changes_the_identity() -> None:
    files = {"w": "b" * 64, "v": "c" * 64}
    variants = [
        {"w": "b" * 64},
        {"w": "b" * 64, "v": "d" * 64},
        {"w": "b" * 64, "u": "c" * 64},
        {"w": "c" * 64, "v": "b" * 64},
    ]
    identities = {model_identity("a" * 64, each) for each in [files, *variants]}
    assert len(identities | {model_identity("e" * 64, files)}) == 6


def test_the_order_does_not_change_the_identity() -> None:
    assert model_identity("a", {"w": "b", "v": "c"}) == model_identity("a", {"v": "c", "w": "b"})


def test_a_shell_computes_the_same(tmp_path: Path) -> None:
    contents = {"model.onnx.data": b"weights", "parts/ä b": b"more", "Z": b""}
    (tmp_path / "parts").mkdir()
    (tmp_path / "any name").write_bytes(b"model")
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = sorted(contents, key=str.encode)
    command = '{ sha256sum <"any name"; sha256sum "$@"; } | sha256sum'
    printed = subprocess.run(
        ["sh", "-c", command, "sh", *names],  # noqa: S607 (as users type it)
        cwd=tmp_path, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    expected = model_identity(sha256(b"model"), {name: sha256(content) for name, content in contents.items()})
    assert printed.split()[0] == expected
