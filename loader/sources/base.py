"""The interface of sources, and the versions of files that they return."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from loader.checksums import Digest
from loader.errors import UsageError
from volume.receipt import FileRecord


class ObjectVersion(Struct, frozen=True):
    """One version of one file at its source.

    Attributes:
        uri: its URI, without secrets.
        size: its size in bytes.
        version: identifies the content, such as a generation, a version id, an entity tag or a digest.
        checksums: the checksums of the whole file that the source provides, by the names in `loader.checksums`.
    """

    uri: str
    size: int
    version: str
    checksums: Mapping[str, str] = {}

    def matches(self, record: FileRecord) -> bool:
        """Return whether the record describes this version of this file."""
        return (self.uri, self.size, self.version) == (record.uri, record.size, record.version) and all(
            record.checksums.get(name) == value for name, value in self.checksums.items()
        )


class Source(ABC):
    """A kind of storage whose files have URIs with one scheme."""

    @property
    def credentials(self) -> str:
        """The kind of credentials in use, without secrets."""
        return "none"

    @abstractmethod
    def resolve(self, uri: str, version: str) -> ObjectVersion:
        """Return a version of a file.

        Args:
            uri: the URI of the file.
            version: the requested version; empty for the latest.

        Raises:
            LoadError: the file does not exist in this version, or cannot be read or verified.
        """

    @abstractmethod
    def resolve_sibling(self, uri: str, location: str) -> str:
        """Return the URI of the file at a path relative to the directory of the file at `uri`, or to a prefix."""

    @abstractmethod
    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Write exactly this version of a file to `target`, and return its digest.

        Args:
            found: the version to fetch.
            target: a path that does not exist, or a partial file from an earlier run.
            journal: path at which the source can store the state that a later run needs to resume.

        Raises:
            ReplacedError: the file was overwritten after it was resolved.
            LoadError: the file cannot be read or written, or its checksums differ from those of the source.
        """

    def list_files(self, uri: str) -> Mapping[str, ObjectVersion]:
        """Return the latest versions of all files below a prefix, by their paths relative to it.

        Args:
            uri: the prefix, which ends with a slash.

        Raises:
            UsageError: this kind of source cannot list files.
            LoadError: the files cannot be listed, or there are too many.
        """
        raise UsageError(
            "prefix-unsupported",
            f"cannot list the files below {uri.partition('?')[0]}: expected the URI of a file, or a prefix of a source "
            "that lists its files (gs://, s3:// and local directories)",
        )

    def path(self, found: ObjectVersion) -> Path | None:  # noqa: ARG002 (used by overriding methods)
        """Return the path of the file if it is on this machine, otherwise None."""
        return None
