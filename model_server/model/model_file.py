"""The model file and its external data files. Each is read once and verified against the loader's receipt."""

import hashlib
import re
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
    """An ONNX model file in the volume.

    Attributes:
        path: the path from the settings, which may be a link.
        directory: the real directory of the file, which also holds its external data files.
        content: the bytes of the file.
        identity: sha256 of the content; with external data, sha256 of the digests of all files.
        receipt: the loader's receipt; None if the loader did not load the model.
        onnx: format of the file; None if the file cannot be parsed.
        problem: why the identity does not cover all files; a model with a problem must not be served.
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
        """Return the model at a path, which may be a link that the loader replaces at any time.

        Raises:
            StartError: a file cannot be read, or does not match the receipt.
        """
        real = path.resolve()
        try:
            content = real.read_bytes()
            receipt = Receipt.read(real.parent)
            if receipt:
                receipt.model.check_content(path, content)
                for record in receipt.external_data:
                    # This is the only read: ONNX Runtime later maps the same pages from the page cache.
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
        """Display name of the model: the name of its object in the bucket, or of its file."""
        scheme, _, place = self.source.partition("://")
        path = place.partition("/")[2]
        return unquote(path.rpartition("/")[2]) if scheme == "file" else path

    @property
    def short_name(self) -> str:
        """Stem of the name, with "-" in place of everything except letters, digits, "_", "." and "-"."""
        name = self.name.rpartition("/")[2]
        if self.source.startswith("oci://"):  # the file's name, if the URI has one, or else that of the repository
            name = name.partition("#")[2] or re.split("[@:]", name)[0]
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", name.removesuffix(".onnx")).strip(".-") or "model"

    @property
    def source(self) -> str:
        """URI of the model's source."""
        return self.receipt.model.uri if self.receipt else self.path.absolute().as_uri()

    @property
    def generation(self) -> str:
        """Version of the model at its source; empty without a receipt."""
        return self.receipt.model.version if self.receipt else ""

    @property
    def format(self) -> dict[str, str]:
        """Format versions of the model and the tool that wrote it, as strings."""
        if self.onnx is None:
            return {}
        return {
            "ir_version": str(self.onnx.ir_version),
            "opsets": self.onnx.opsets_text,
            "producer": self.onnx.producer,
        }

    @property
    def signed_by(self) -> str:
        """sha256 of the public key whose signature the loader verified; empty if the loader required no signature."""
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
