"""The two checksums of a file, computed while its bytes go by."""

import base64
import hashlib

from crc32c import crc32c
from msgspec import Struct

BLOCK = 1 << 20


class Digest(Struct, frozen=True):
    """What was read: how many bytes, their sha256 in hexadecimal, their CRC32C in base64 as Cloud Storage writes it."""

    size: int
    sha256: str
    crc32c: str


def in_base64(crc: int) -> str:
    """Return a CRC32C as Cloud Storage writes it."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


class Hasher:
    """A digest in the making."""

    def __init__(self) -> None:
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._crc32c = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        self._size += len(data)
        self._sha256.update(data)
        self._crc32c = crc32c(data, self._crc32c)

    def digest(self) -> Digest:
        """Return the digest of the bytes so far."""
        return Digest(size=self._size, sha256=self._sha256.hexdigest(), crc32c=in_base64(self._crc32c))
