"""The journal of a partial download, which survives a killed run; its checksums are verified before it is used."""

import os
from pathlib import Path

import msgspec
from crc32c import crc32c
from msgspec import Struct

from loader.sources.base import ObjectVersion

PIECE_SIZE = 8 << 20


class _Heading(Struct, frozen=True):
    found: ObjectVersion
    piece_size: int


class Journal:
    """The pieces of a file that are on disk, each with `PIECE_SIZE` bytes except the last.

    The journal has a heading, then a line `[piece, crc32c]` per piece. An incomplete last line is ignored.

    Args:
        path: the path of the journal.
        found: the version of the file.
        target: the file that contains the pieces.

    Attributes:
        pieces: the CRC32C of each piece on disk, by its number.
    """

    def __init__(self, path: Path, found: ObjectVersion, target: Path) -> None:
        self.found = found
        self.target = target
        self.pieces: dict[int, int] = {}
        self._path = path
        self._heading = _line(_Heading(found, PIECE_SIZE))

    def span(self, piece: int) -> range:
        """Return the byte range of a piece in the file."""
        return range(piece * PIECE_SIZE, min((piece + 1) * PIECE_SIZE, self.found.size))

    def missing(self) -> list[int]:
        """Return the pieces that are not on disk."""
        return [piece for piece in range(self.count) if piece not in self.pieces]

    @property
    def count(self) -> int:
        """The number of pieces of the file."""
        return -(-self.found.size // PIECE_SIZE)

    def open(self) -> None:
        """Load the valid pieces of an earlier run, or start with an empty file."""
        lines = self._path.read_bytes().splitlines(keepends=True) if _is_regular_file(self._path) else []
        if _is_regular_file(self.target) and lines and lines[0] == self._heading:
            self.target.chmod(0o644)  # an earlier run can have been killed after it made the file read-only
            self._load_valid_pieces([line for line in lines[1:] if line.endswith(b"\n")])
        else:
            self.target.unlink(missing_ok=True)
        self.rewrite()

    def rewrite(self) -> None:
        """Write the journal again from `pieces`, and extend the file to its final size."""
        content = self._heading + b"".join(_line(piece) for piece in self.pieces.items())
        temporary = self._path.with_name(f"{self._path.name}~")
        temporary.unlink(missing_ok=True)
        temporary.write_bytes(content)
        temporary.replace(self._path)
        with self.target.open("ab") as file:
            file.truncate(self.found.size)

    def add(self, piece: int, crc: int) -> None:
        """Record that a piece is on disk."""
        with self._path.open("ab", buffering=0) as file:
            file.write(_line((piece, crc)))
        self.pieces[piece] = crc

    def _load_valid_pieces(self, lines: list[bytes]) -> None:
        with self.target.open("rb", buffering=0) as file:
            for line in lines:
                try:
                    piece, crc = msgspec.json.decode(line, type=tuple[int, int])
                except msgspec.DecodeError:
                    continue
                if 0 <= piece < self.count and crc32c(os.pread(file.fileno(), PIECE_SIZE, piece * PIECE_SIZE)) == crc:
                    self.pieces[piece] = crc


def _is_regular_file(path: Path) -> bool:
    """Return whether this is a regular file, not a symbolic link or a pipe."""
    return path.is_file() and not path.is_symlink()


def _line(content: object) -> bytes:
    return msgspec.json.encode(content) + b"\n"
