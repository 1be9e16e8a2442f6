"""The model's file and those beside it, each read once, and verified by what the loader says of them."""

import hashlib
import stat
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from model_server.errors import StartError
from volume.identity import model_identity
from volume.onnx_file import OnnxError, OnnxInfo, read_onnx
from volume.receipt import Receipt, ReceiptError, sha256_of


@dataclass(frozen=True)
class ModelFile:
    """An ONNX model as it stands in the volume.

    Attributes:
        path: where it was asked for.
        directory: where it really is; files that hold weights of it stand there too.
        content: its bytes.
        identity: the sha256 of the content, or with external data, that of all its files' digests.
        receipt: what the loader says of it; None when no loader brought it.
        onnx: its format; None where `problem` says why that is unknown.
        problem: why the identity leaves files out; a model with a problem must not be served.
    """

    path: Path
    directory: Path
    content: bytes
    identity: str
    receipt: Receipt | None
    onnx: OnnxInfo | None = None
    problem: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the model at a path, which may be a link that the loader switches at any time.

        Raises:
            StartError: a file cannot be read, or is not the one that the receipt beside it lists.
        """
        real = path.resolve()
        try:
            content = real.read_bytes()
            receipt = Receipt.read(real.parent)
            if receipt:
                receipt.model.check_content(path, content)
                for record in receipt.external_data:
                    # Read here for the first and last time: ONNX Runtime maps the pages that this leaves in memory.
                    record.check(real.parent / record.name)
        except OSError as error:
            reason = f"MODEL_FILEPATH: cannot read {error.filename or path}: {error.strerror}"
            raise StartError("model-unreadable", reason) from error
        except ReceiptError as error:
            raise StartError("receipt-mismatch", f"MODEL_FILEPATH: {error}") from error
        onnx, problem = None, ""
        identity = receipt.identity if receipt else hashlib.sha256(content).hexdigest()
        try:
            onnx = read_onnx(BytesIO(content))
            if receipt:
                _require_listed(path, onnx, receipt)
            else:
                digests = {name: _sha256_of_file(real.parent / name) for name in onnx.external_data}
                identity = model_identity(identity, digests)
        except OnnxError as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot read {error.filename}: {error.strerror}"
        return cls(path, real.parent, content, identity, receipt, onnx, problem)

    @property
    def name(self) -> str:
        """What to call the model: its object's name in a bucket, or its file's name."""
        scheme, _, place = self.source.partition("://")
        path = place.partition("/")[2]
        return unquote(path.rpartition("/")[2]) if scheme == "file" else path

    @property
    def source(self) -> str:
        """Where the model came from, as a URI."""
        return self.receipt.model.uri if self.receipt else self.path.absolute().as_uri()

    @property
    def generation(self) -> str:
        """Which version of that source it is; empty when nobody has said."""
        return self.receipt.model.version if self.receipt else ""

    @property
    def format(self) -> dict[str, str]:
        """The versions of the model's format, and what wrote it, as texts."""
        if self.onnx is None:
            return {}
        return {
            "ir_version": str(self.onnx.ir_version),
            "opsets": self.onnx.opsets_text,
            "producer": self.onnx.producer,
        }

    @property
    def signed_by(self) -> str:
        """The hint of the key whose signature the loader has verified; empty when it required none."""
        return self.receipt.signature.key if self.receipt and self.receipt.signature else ""


def _require_listed(path: Path, onnx: OnnxInfo, receipt: Receipt) -> None:
    """Raise `StartError` unless the receipt lists all files that hold weights."""
    for name in set(onnx.external_data) - {record.name for record in receipt.external_data}:
        reason = f"MODEL_FILEPATH: {path} keeps weights in {name!r}, which its receipt does not list: load it again"
        raise StartError("receipt-mismatch", reason)


def _sha256_of_file(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is not a regular file", str(path))
    return sha256_of(path)
