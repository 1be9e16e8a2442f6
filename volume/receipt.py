"""The receipt that a load writes next to the model: the files in the volume, and their sources."""

import hashlib
import stat
from datetime import datetime
from pathlib import Path, PurePath

import msgspec
from msgspec import Struct

from volume.identity import model_identity
from volume.onnx_file import OnnxInfo

RECEIPT = "receipt.json"
SCHEMA = 2
_BLOCK = 1 << 20
_MAX_SIZE = 16 << 20


class ReceiptError(ValueError):
    """A receipt that cannot be read, or that does not match the files; the message gives the reason."""


class FileRecord(Struct, frozen=True, kw_only=True):
    """One loaded file.

    Attributes:
        name: its path relative to the model's directory; for the label file, its file name.
        uri: its source, without secrets.
        version: its version at the source: a generation, a version id, an entity tag or a digest.
        size: its size in bytes.
        sha256: its sha256 in hexadecimal.
        checksums: the verified checksums of the source by name: CRCs in base64, digests in hexadecimal.
    """

    name: str
    uri: str
    version: str
    size: int
    sha256: str
    checksums: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Refuse a name outside the model's directory: a receipt can be tampered with."""
        if not self.name.isprintable() or PurePath(self.name).is_absolute() or ".." in PurePath(self.name).parts:
            raise ValueError(f"the name {self.name!r} points outside the model's directory")

    def check(self, path: Path) -> None:
        """Read the file at `path`, and raise `ReceiptError` unless it is the loaded one."""
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ReceiptError(f"{path} is not a regular file, but its receipt lists it as one: load it again")
            self._check_size(path, status.st_size)
            self._check_sha256(path, sha256_of(path))
        except OSError as error:
            raise ReceiptError(f"cannot read {path}, which its receipt lists: {error.strerror}") from error

    def check_content(self, path: Path, content: bytes) -> None:
        """Raise `ReceiptError` unless the content, read from `path`, is that of the loaded file."""
        self._check_size(path, len(content))
        self._check_sha256(path, hashlib.sha256(content).hexdigest())

    def _check_size(self, path: Path, found: int) -> None:
        if found != self.size:
            raise ReceiptError(f"{path} has {found} bytes, but its receipt says {self.size}: load it again")

    def _check_sha256(self, path: Path, found: str) -> None:
        if found != self.sha256:
            raise ReceiptError(f"{path} has the sha256 {found}, but its receipt says {self.sha256}: load it again")


class SignatureRecord(Struct, frozen=True, kw_only=True):
    """The signature that the loader verified.

    Attributes:
        uri: its source, without secrets.
        sha256: the sha256 of the signature file in hexadecimal.
        key: the sha256 of the signer's public key in PEM, in hexadecimal.
    """

    uri: str
    sha256: str
    key: str


class Receipt(Struct, frozen=True, kw_only=True):
    """The result of one load.

    Attributes:
        model: the ONNX file.
        labels: its label file; None if the source has none.
        external_data: the external data files of the model.
        onnx: the model's format; None in receipts of loader 0.1.0.
        signature: the signature of all these files; None if none was required.
        started: the start of the load in UTC.
        seconds: the duration of the load.
        attempts: 1 plus the number of retries.
        loader_version: the version of the loader that wrote the receipt.
        schema: the version of the receipt format; receipts of loader 0.1.0 do not contain it.
    """

    schema: int = SCHEMA
    model: FileRecord
    labels: FileRecord | None
    external_data: tuple[FileRecord, ...] = ()
    onnx: OnnxInfo | None = None
    signature: SignatureRecord | None = None
    started: datetime
    seconds: float
    attempts: int
    loader_version: str

    @classmethod
    def read(cls, directory: Path) -> "Receipt | None":
        """Return the receipt in the model's directory, or None if there is none.

        Raises:
            ReceiptError: the receipt cannot be read, or is invalid.
        """
        path = directory / RECEIPT
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ReceiptError(f"cannot read the receipt {path}: it is not a regular file")
            if status.st_size > _MAX_SIZE:
                raise ReceiptError(f"{path} is not a receipt of the loader: it has {status.st_size} bytes")
            return _decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReceiptError(f"cannot read the receipt {path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ReceiptError(f"{path} is not a receipt of the loader: {error}") from error

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """The model, its label file if there is one, and its external data."""
        labels = () if self.labels is None else (self.labels,)
        return self.model, *labels, *self.external_data

    @property
    def identity(self) -> str:
        """The model's identity: its sha256 or, with external data, a sha256 over all its files."""
        if self.schema > 1 or not self.external_data:
            return model_identity(self.model.sha256, {file.name: file.sha256 for file in self.external_data})
        # The identity in loader 0.1.0 depends on the name of the ONNX file.
        files = (self.model, *self.external_data)
        return hashlib.sha256("\n".join(f"{file.sha256}  {file.name}" for file in files).encode()).hexdigest()

    def encode(self) -> bytes:
        """Return the receipt as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class _Heading(Struct):
    schema: int = 1


class _FirstFileRecord(Struct):
    name: str
    uri: str
    generation: int
    size: int
    sha256: str
    crc32c: str

    def upgrade(self) -> FileRecord:
        return FileRecord(
            name=self.name,
            uri=self.uri,
            version=str(self.generation),
            size=self.size,
            sha256=self.sha256,
            checksums={"crc32c": self.crc32c},
        )


class _FirstReceipt(Struct):
    """The receipt of loader 0.1.0."""

    model: _FirstFileRecord
    labels: _FirstFileRecord
    started: datetime
    seconds: float
    attempts: int
    loader_version: str
    external_data: tuple[_FirstFileRecord, ...] = ()

    def upgrade(self) -> Receipt:
        return Receipt(
            schema=1,
            model=self.model.upgrade(),
            labels=self.labels.upgrade(),
            external_data=tuple(record.upgrade() for record in self.external_data),
            started=self.started,
            seconds=self.seconds,
            attempts=self.attempts,
            loader_version=self.loader_version,
        )


def _decode(content: bytes) -> Receipt:
    """Decode a receipt in this format or that of loader 0.1.0.

    Raises:
        msgspec.DecodeError: the content is not a receipt.
    """
    schema = msgspec.json.decode(content, type=_Heading).schema
    if schema == 1:
        try:
            return msgspec.json.decode(content, type=_FirstReceipt).upgrade()
        except ValueError as error:  # including a name outside the model's directory
            raise msgspec.DecodeError(str(error)) from error
    if schema != SCHEMA:
        raise msgspec.DecodeError(f"its schema is {schema}, but this program reads only 1 and {SCHEMA}")
    return msgspec.json.decode(content, type=Receipt)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, reading it in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
