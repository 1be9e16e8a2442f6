"""Where a model can come from: one module a source, all of them a `Source`."""

from pathlib import Path
from typing import Protocol

from msgspec import Struct

from loader.digest import Digest
from loader.progress import Progress
from loader.settings import Settings
from loader.watchdog import Deadline
from volume.receipt import FileRecord


class Artifact(Struct, frozen=True):
    """One version of one file at its source.

    Attributes:
        name: its name there.
        uri: the name with which anyone can find it.
        size: in bytes.
        generation: what changes when the file is overwritten.
        crc32c: the source's own checksum in base64; None when it keeps none.
    """

    name: str
    uri: str
    size: int
    generation: int
    crc32c: str | None = None

    def is_in(self, record: FileRecord) -> bool:
        """Return whether the record is of this version of this file."""
        return (self.uri, self.size, self.generation) == (record.uri, record.size, record.generation) and (
            self.crc32c in (None, record.crc32c)
        )


class Source(Protocol):
    """A place that holds a model, its label file, and maybe its weights in files beside it."""

    @property
    def credentials(self) -> str:
        """What kind of credentials it has been asked with, without any secret."""

    def model(self) -> Artifact:
        """Return the model as it is at the source now.

        Raises:
            LoadError: it does not exist or may not be read.
        """

    def labels(self) -> Artifact:
        """Return its label file as it is at the source now; raises like `model`."""

    def beside_model(self, location: str) -> Artifact:
        """Return the file at a path relative to the model's directory; raises like `model`."""

    def fetch(self, artifact: Artifact, target: Path, journal: Path) -> Digest:
        """Write the artifact's bytes to the file `target` and return their digest.

        Args:
            artifact: what to fetch; its bytes of that generation and no others.
            target: a path that is free, or that an earlier run has begun to write.
            journal: where the source may note what a later run needs to go on.

        Raises:
            ReplacedError: the artifact was overwritten since it was looked up.
            LoadError: the bytes could not be read or written, or are not what the source says they are.
        """


def open_source(settings: Settings, deadline: Deadline, progress: Progress) -> Source:
    """Return the source that the settings name; imports are the cost of a small load, so each brings its own."""
    if settings.use_local_model:
        from loader.sources.local import LocalSource  # noqa: PLC0415

        return LocalSource(settings, progress)
    from loader.sources.gcs import GcsSource  # noqa: PLC0415

    return GcsSource(settings, deadline, progress)
