"""The base of all sources: a version of a file, and the questions that a load asks about files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from loader.checksums import Digest
from volume.receipt import FileRecord


class ObjectVersion(Struct, frozen=True):
    """One version of one file at its source.

    Attributes:
        uri: the name with which anyone can find it, without any secret.
        size: in bytes.
        version: what changes when the file is overwritten: a generation, a version id, an entity tag, a digest.
        checksums: those that the source keeps of the whole file, by the names in `loader.checksums`; any or none.
    """

    uri: str
    size: int
    version: str
    checksums: Mapping[str, str] = {}

    def matches(self, record: FileRecord) -> bool:
        """Return whether the record is of this version of this file."""
        return (self.uri, self.size, self.version) == (record.uri, record.size, record.version) and all(
            record.checksums.get(name) == value for name, value in self.checksums.items()
        )


class Source(ABC):
    """A kind of storage; files in it are named by URIs of one scheme."""

    @property
    def credentials(self) -> str:
        """What kind of credentials it has been asked with, without any secret."""
        return "none"

    @abstractmethod
    def resolve(self, uri: str, version: str) -> ObjectVersion:
        """Return a file as it is at the source now.

        Args:
            uri: of the file.
            version: the version to look for; empty for the newest.

        Raises:
            LoadError: it does not exist, cannot be read, or cannot be verified.
        """

    @abstractmethod
    def resolve_sibling(self, uri: str, location: str) -> str:
        """Return the URI of the file at a path relative to the directory of another one."""

    @abstractmethod
    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Write the bytes of what was found to the file `target` and return their digest.

        Args:
            found: what to fetch; its bytes in that version and no others.
            target: a path that is free, or that an earlier run has begun to write.
            journal: where the source may note what a later run needs to go on.

        Raises:
            ReplacedError: the file was overwritten since it was looked up.
            LoadError: the bytes could not be read or written, or are not what the source says they are.
        """

    def path(self, found: ObjectVersion) -> Path | None:  # noqa: ARG002 (most sources are elsewhere)
        """Return where the file can be read on this machine, or None if it has to be fetched first."""
        return None
