"""What of a file is on disk already: notes that survive a killed run, and are believed only if the bytes agree."""

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
    """The pieces of a file that are on disk, each of `PIECE_SIZE` bytes but the last.

    The file has a heading, then a line `[piece, crc32c]` for each piece; a torn last line is no line.

    Args:
        path: where it is kept.
        found: the version of the file that the pieces are of.
        target: the file that they are in.

    Attributes:
        pieces: the CRC32C of each piece that is on disk, by number.
    """

    def __init__(self, path: Path, found: ObjectVersion, target: Path) -> None:
        self.found = found
        self.target = target
        self.pieces: dict[int, int] = {}
        self._path = path
        self._heading = _line(_Heading(found, PIECE_SIZE))

    def span(self, piece: int) -> range:
        """Return where the bytes of a piece are in the file."""
        return range(piece * PIECE_SIZE, min((piece + 1) * PIECE_SIZE, self.found.size))

    def missing(self) -> list[int]:
        """Return the pieces that are not on disk."""
        return [piece for piece in range(self.count) if piece not in self.pieces]

    @property
    def count(self) -> int:
        """How many pieces the file has."""
        return -(-self.found.size // PIECE_SIZE)

    def open(self) -> None:
        """Take up the pieces that an earlier run has left, or else begin with an empty file."""
        lines = self._path.read_bytes().splitlines(keepends=True) if _is_own(self._path) else []
        if _is_own(self.target) and lines and lines[0] == self._heading:
            self.target.chmod(0o644)  # an earlier run may have been killed when it had made the file read-only
            self._take_up([line for line in lines[1:] if line.endswith(b"\n")])
        else:
            self.target.unlink(missing_ok=True)
        self.rewrite()

    def rewrite(self) -> None:
        """Write the journal anew, from the pieces that it has in memory, and make the file as long as it will be."""
        content = self._heading + b"".join(_line(piece) for piece in self.pieces.items())
        temporary = self._path.with_name(f"{self._path.name}~")
        temporary.unlink(missing_ok=True)
        temporary.write_bytes(content)
        temporary.replace(self._path)
        with self.target.open("ab") as file:
            file.truncate(self.found.size)

    def add(self, piece: int, crc: int) -> None:
        """Note that a piece is on disk."""
        with self._path.open("ab", buffering=0) as file:
            file.write(_line((piece, crc)))
        self.pieces[piece] = crc

    def _take_up(self, lines: list[bytes]) -> None:
        with self.target.open("rb", buffering=0) as file:
            for line in lines:
                try:
                    piece, crc = msgspec.json.decode(line, type=tuple[int, int])
                except msgspec.DecodeError:
                    continue
                if 0 <= piece < self.count and crc32c(os.pread(file.fileno(), PIECE_SIZE, piece * PIECE_SIZE)) == crc:
                    self.pieces[piece] = crc


def _is_own(path: Path) -> bool:
    """Return whether this is a file as a loader leaves it: no link to elsewhere, and no pipe to wait for."""
    return path.is_file() and not path.is_symlink()


def _line(content: object) -> bytes:
    return msgspec.json.encode(content) + b"\n"
