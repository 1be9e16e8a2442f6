"""The model's file and those beside it, each read once, and verified by what the loader says of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from model_server.errors import StartError
from volume.receipt import Receipt, ReceiptError


@dataclass(frozen=True)
class ModelFile:
    """An ONNX model as it stands in the volume.

    Attributes:
        path: where it was asked for.
        directory: where it really is; files that hold weights of it stand there too.
        content: its bytes.
        identity: the sha256 of the content, or of all files' digests where the receipt lists several.
        receipt: what the loader says of it; None when no loader brought it.
    """

    path: Path
    directory: Path
    content: bytes
    identity: str
    receipt: Receipt | None

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
        identity = receipt.identity if receipt else hashlib.sha256(content).hexdigest()
        return cls(path, real.parent, content, identity, receipt)

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
