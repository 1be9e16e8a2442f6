"""A model on a file system that the loader can read."""

import stat
from pathlib import Path

from crc32c import crc32c

from loader.digest import BLOCK, Digest, Hasher, in_base64
from loader.errors import NotFoundError, ReplacedError, during
from loader.progress import Progress
from loader.settings import Settings
from loader.sources import Artifact


class LocalSource:
    """The files that `LOCAL_MODEL_FILEPATH` and `LOCAL_LABEL_FILEPATH` name."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._model = settings.local_model_filepath
        self._labels = settings.local_label_filepath or self._model.with_name("label.json")
        self._progress = progress

    @property
    def credentials(self) -> str:
        """A file system asks for none."""
        return "none"

    def model(self) -> Artifact:
        """Return the model; its generation is its modification time in nanoseconds."""
        return _artifact(self._model)

    def labels(self) -> Artifact:
        """Return the label file."""
        return _artifact(self._labels)

    def beside_model(self, location: str) -> Artifact:
        """Return a file beside the model."""
        return _artifact(self._model.parent / location)

    def fetch(self, artifact: Artifact, target: Path, journal: Path) -> Digest:  # noqa: ARG002 (a copy starts anew)
        """Copy the artifact's file to `target`."""
        hasher = Hasher()
        source = Path(artifact.name)
        with during(f"cannot copy {artifact.name} to {target}", missing=NotFoundError):
            target.unlink(missing_ok=True)
            with source.open("rb", buffering=0) as reader, target.open("xb") as writer:
                while block := reader.read(BLOCK):
                    writer.write(block)
                    hasher.update(block)
                    self._progress.advance(len(block))
        digest = hasher.digest()
        if (digest.size, digest.crc32c) != (artifact.size, artifact.crc32c):
            raise ReplacedError(f"{artifact.uri} was overwritten while it was copied: load it again")
        return digest


def _artifact(path: Path) -> Artifact:
    with during(f"cannot read the local file {path}", missing=NotFoundError):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotFoundError(f"cannot read the local file {path}: it is not a regular file")
        crc = 0
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                crc = crc32c(block, crc)
    return Artifact(str(path), path.absolute().as_uri(), status.st_size, status.st_mtime_ns, in_base64(crc))
