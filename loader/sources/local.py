"""A model on a file system that the loader can read."""

import os
import stat
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from loader.checksums import BLOCK_SIZE, Digest, Hasher
from loader.errors import NotFoundError, ReplacedError, translate_os_errors
from loader.progress import Progress
from loader.settings import Settings
from loader.sources.base import ObjectVersion, Source
from loader.sources.listing import Listing
from loader.watchdog import Deadline


class LocalSource(Source):
    """Files with `file://` URIs.

    A version consists of mtime and ctime in nanoseconds. The ctime cannot be set, so a changed file has a different
    version even if its size and mtime are the same.
    """

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:  # noqa: ARG002
        self._settings = settings
        self._progress = progress

    def resolve(self, uri: str, version: str) -> ObjectVersion:
        """Return the file's version without reading its content."""
        path = _path(uri)
        with translate_os_errors(f"cannot read the local file {path}", missing=NotFoundError):
            status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotFoundError("file-irregular", f"cannot read the local file {path}: it is not a regular file")
        found = _version(status)
        if version not in ("", found):
            raise NotFoundError(
                "version-missing", f"cannot read the local file {path}: its version is {found}, not {version}"
            )
        return ObjectVersion(uri, status.st_size, found)

    def resolve_sibling(self, uri: str, location: str) -> str:
        """Return the URI of a file in the same directory."""
        path = _path(uri)
        return ((path if uri.endswith("/") else path.parent) / location).as_uri()

    def list_files(self, uri: str) -> dict[str, ObjectVersion]:
        """Return the versions of all files in a directory; links to directories are refused."""
        root = _path(uri)
        listing = Listing(uri, self._settings)
        files = {}
        with translate_os_errors(f"cannot list the local directory {root}", missing=NotFoundError):
            for directory, subdirectories, names in os.walk(root, onerror=_fail):
                subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
                links = [name for name in subdirectories if Path(directory, name).is_symlink()]
                for path in (Path(directory, name) for name in (*names, *links)):
                    name = path.relative_to(root).as_posix()
                    if listing.includes(name, path.stat().st_size):
                        files[name] = self.resolve(path.as_uri(), "")
        return files

    def path(self, found: ObjectVersion) -> Path:
        """Return the path of the file."""
        return _path(found.uri)

    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:  # noqa: ARG002 (copies are not resumed)
        """Copy the file to `target` and compute its digest in one pass."""
        hasher = Hasher()
        source = _path(found.uri)
        with translate_os_errors(f"cannot copy {source} to {target}", missing=NotFoundError):
            target.unlink(missing_ok=True)
            with source.open("rb", buffering=0) as reader, target.open("xb") as writer:
                while block := reader.read(BLOCK_SIZE):
                    writer.write(block)
                    hasher.update(block)
                    self._progress.advance(len(block))
                version = _version(os.fstat(reader.fileno()))
        digest = hasher.digest()
        if (digest.size, version) != (found.size, found.version):
            raise ReplacedError("object-replaced", f"{found.uri} was overwritten while it was copied: load it again")
        return digest


def _path(uri: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


def _fail(error: OSError) -> NoReturn:
    raise error


def _version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}"
