"""A receipt describes the loaded files and detects changed ones."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from volume.onnx_file import OnnxInfo
from volume.receipt import RECEIPT, FileRecord, Receipt, ReceiptError, SignatureRecord


def record(name: str, content: bytes) -> FileRecord:
    digest = hashlib.sha256(content).hexdigest()
    return FileRecord(
        name=name, uri=f"gs://b/{name}", version="1", size=len(content), sha256=digest, checksums={"crc32c": "AAAAAA=="}
    )


@pytest.fixture
def receipt(tmp_path: Path) -> Receipt:
    """A receipt of three files that exist."""
    contents = {"model.onnx": b"model", "label.json": b"labels", "parts/w": b"weights"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    model, labels, weights = (record(name, content) for name, content in contents.items())
    return Receipt(
        model=model,
        labels=labels,
        external_data=(weights,),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=1.5,
        attempts=2,
        loader_version="1",
    )


def test_reads_a_written_receipt(tmp_path: Path, receipt: Receipt) -> None:
    (tmp_path / RECEIPT).write_bytes(receipt.encode())
    assert Receipt.read(tmp_path) == receipt


def receipt_of_loader_0_1_0(external_data: str) -> bytes:
    """Return a receipt as loader 0.1.0 wrote it, for a model with its weights in a file of this name."""
    file = {"uri": "gs://b/m", "generation": 1700000000000000, "size": 5, "sha256": "ab" * 32, "crc32c": "AAAAAA=="}
    return msgspec.json.encode(
        {
            "model": {"name": "model.onnx", **file},
            "labels": {"name": "label.json", **file},
            "external_data": [{"name": external_data, **file}],
            "started": "2026-01-01T00:00:00Z",
            "seconds": 1.5,
            "attempts": 2,
            "loader_version": "0.1.0",
        }
    )


def test_reads_the_receipt_of_loader_0_1_0(tmp_path: Path) -> None:
    (tmp_path / RECEIPT).write_bytes(receipt_of_loader_0_1_0("parts/w"))

    receipt = Receipt.read(tmp_path)

    assert receipt is not None
    assert (receipt.schema, receipt.loader_version, receipt.external_data[0].name) == (1, "0.1.0", "parts/w")
    assert (receipt.model.version, receipt.model.checksums) == ("1700000000000000", {"crc32c": "AAAAAA=="})
    (tmp_path / RECEIPT).write_bytes(receipt_of_loader_0_1_0("../w"))
    with pytest.raises(ReceiptError, match="points outside"):
        Receipt.read(tmp_path)


def test_the_identity_of_loader_0_1_0_is_kept(tmp_path: Path) -> None:
    (tmp_path / RECEIPT).write_bytes(receipt_of_loader_0_1_0("w"))
    receipt = Receipt.read(tmp_path)
    assert receipt
    lines = f"{'ab' * 32}  model.onnx\n{'ab' * 32}  w"
    assert receipt.identity == hashlib.sha256(lines.encode()).hexdigest()


def test_the_signature_and_the_format_are_kept(tmp_path: Path, receipt: Receipt) -> None:
    signature = SignatureRecord(uri="gs://b/model.sig", sha256="ab" * 32, key="cd" * 32)
    onnx = OnnxInfo(ir_version=10, opsets={"ai.onnx": 21}, producer_name="pytorch")
    whole = msgspec.structs.replace(receipt, signature=signature, onnx=onnx)
    (tmp_path / RECEIPT).write_bytes(whole.encode())
    assert Receipt.read(tmp_path) == whole
    assert json.loads(whole.encode())["onnx"] == {
        "ir_version": 10, "opsets": {"ai.onnx": 21}, "producer_name": "pytorch",
    }  # fmt: skip


def test_a_receipt_with_a_later_schema_is_refused(tmp_path: Path, receipt: Receipt) -> None:
    (tmp_path / RECEIPT).write_bytes(receipt.encode().replace(b'"schema": 2', b'"schema": 3'))
    with pytest.raises(ReceiptError, match="its schema is 3, but this program reads only 1 and 2"):
        Receipt.read(tmp_path)


def test_identity_covers_all_files(receipt: Receipt) -> None:
    alone = msgspec.structs.replace(receipt, external_data=())
    assert alone.identity == alone.model.sha256
    weights = msgspec.structs.replace(receipt.external_data[0], sha256="0" * 64)
    other = msgspec.structs.replace(receipt, external_data=(weights,))
    assert len({alone.identity, receipt.identity, other.identity}) == 3


def test_there_can_be_no_receipt(tmp_path: Path) -> None:
    assert Receipt.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b'{"model": {"size": "many"}}', b"\xff", b"[" * 100_000])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECEIPT).write_bytes(content)
    with pytest.raises(ReceiptError, match=r"receipt\.json is not a receipt"):
        Receipt.read(tmp_path)


def test_an_unreadable_receipt_is_named(tmp_path: Path) -> None:
    (tmp_path / RECEIPT).mkdir()
    with pytest.raises(ReceiptError, match=r"cannot read the receipt .*receipt\.json"):
        Receipt.read(tmp_path)


def test_endless_files_are_refused(tmp_path: Path, receipt: Receipt) -> None:
    path = tmp_path / RECEIPT
    os.mkfifo(path)
    with pytest.raises(ReceiptError, match="not a regular file"):
        Receipt.read(tmp_path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ReceiptError, match="is not a receipt of the loader: it has 1099511627776 bytes"):
        Receipt.read(tmp_path)
    weights = tmp_path / "parts/w"
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ReceiptError, match="not a regular file"):
        msgspec.structs.replace(receipt.external_data[0], size=0).check(weights)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a\\u0000b"])
def test_a_name_outside_the_directory_is_refused(tmp_path: Path, receipt: Receipt, name: str) -> None:
    (tmp_path / RECEIPT).write_bytes(receipt.encode().replace(b"parts/w", name.encode()))
    with pytest.raises(ReceiptError, match="points outside"):
        Receipt.read(tmp_path)


def test_intact_files_pass(tmp_path: Path, receipt: Receipt) -> None:
    for file in receipt.files:
        file.check(tmp_path / file.name)
        file.check_content(tmp_path / file.name, (tmp_path / file.name).read_bytes())


@pytest.mark.parametrize("name", ["model.onnx", "label.json", "parts/w"])
@pytest.mark.parametrize(
    ("change", "finding"), [("same size", "sha256"), ("other size", "[678] bytes"), ("gone", "cannot read")]
)
def test_changed_files_are_named(tmp_path: Path, receipt: Receipt, name: str, change: str, finding: str) -> None:
    path = tmp_path / name
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"?" * (path.stat().st_size + (change == "other size")))
    [listed] = [file for file in receipt.files if file.name == name]
    with pytest.raises(ReceiptError, match=finding) as refused:
        listed.check(path)
    assert str(path) in str(refused.value)
    if change != "gone":
        with pytest.raises(ReceiptError, match=finding):
            listed.check_content(path, path.read_bytes())
