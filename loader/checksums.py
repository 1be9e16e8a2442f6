"""Incremental checksums of a file's bytes."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, cast

from crc32c import crc32c
from msgspec import Struct

BLOCK_SIZE = 1 << 20


class Digest(Struct, frozen=True):
    """Size and checksums of a sequence of bytes.

    Attributes:
        size: the number of bytes.
        sha256: the SHA-256 in hexadecimal.
        checksums: the requested checksums by name, encoded by `encode_checksum`.
    """

    size: int
    sha256: str
    checksums: dict[str, str]

    def mismatches(self, expected: Mapping[str, str]) -> list[str]:
        """Return the names of the checksums that differ from the expected ones."""
        return [name for name, value in expected.items() if self.checksums.get(name) != value]


class _Checksum(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, function: Callable[[bytes, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def _new_checksum(name: str) -> _Checksum:
    match name:
        case "crc32c":
            return _Crc(crc32c, 4)
        case "crc32":
            return _Crc(zlib.crc32, 4)
        case "crc64nvme":
            return _Crc(_crc64nvme(), 8)
        case _:
            return hashlib.new(name, usedforsecurity=False)


def _crc64nvme() -> Callable[[bytes, int], int]:
    from awscrt.checksums import crc64nvme  # noqa: PLC0415 (needed for S3 only)

    return cast("Callable[[bytes, int], int]", crc64nvme)


def encode_checksum(name: str, digest: bytes) -> str:
    """Return a checksum encoded as in receipts: CRCs in base64, like Cloud Storage and S3, digests in hexadecimal."""
    return base64.b64encode(digest).decode() if name.startswith("crc") else digest.hex()


class Hasher:
    """Incremental SHA-256 and the named checksums."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._size = 0
        self._checksums = {name: _new_checksum(name) for name in {"sha256", *names}}

    def update(self, data: bytes) -> None:
        """Add the next bytes of the file."""
        self._size += len(data)
        for one in self._checksums.values():
            one.update(data)

    def digest(self) -> Digest:
        """Return the digest of the bytes so far."""
        checksums = {name: encode_checksum(name, one.digest()) for name, one in self._checksums.items()}
        return Digest(size=self._size, sha256=checksums["sha256"], checksums=checksums)
