"""Staging and atomic publication of the files of a load.

A loader that was killed between two renames would leave a new model with old labels. So all files of a load are in one
release directory next to the model, the final paths are symbolic links through `.current`, and renaming that one link
publishes all files. Kubernetes updates the files of a ConfigMap in the same way (pkg/volume/util/atomic_writer.go).

Before publication the files are staged in `.model-partial-<key>`. If a run is killed, the next run resumes from this
directory if its key is the same, and otherwise deletes it.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loader.errors import LoadError, NoSpaceError, translate_os_errors
from loader.sources.base import ObjectVersion
from volume.receipt import RECEIPT, FileRecord, Receipt, ReceiptError

_CURRENT = ".current"
_RELEASE = ".model-release-"
_PARTIAL = ".model-partial-"
_LINK = ".model-link-"


class Staging:
    """The staged files of one load, and the published files."""

    def __init__(self, final_model: Path, final_labels: Path, key: str) -> None:
        self._model = final_model
        self._labels = final_labels
        self._parent = final_model.parent
        self._current = self._parent / _CURRENT
        self._partial = self._parent / f"{_PARTIAL}{key}"
        self._files = self._partial / "files"
        self._journals = self._partial / "journals"
        self._published: Receipt | None = None
        with suppress(ReceiptError):
            self._published = Receipt.read(self.published(RECEIPT).parent)

    def path(self, name: str) -> Path:
        """Return the path at which to stage a file, and create its directory.

        Raises:
            LoadError: the directory cannot be created.
        """
        return self._under(self._files, name)

    def journal(self, name: str) -> Path:
        """Return the path of the journal of a file's download."""
        return self._under(self._journals, name)

    def require_space(self, versions: dict[str, ObjectVersion]) -> None:
        """Raise `NoSpaceError` unless the file system has room for the missing bytes of these files."""
        free = self.free()
        needed = sum(version.size - self._allocated(name) for name, version in versions.items())
        if needed > free:
            raise NoSpaceError(
                "disk-full",
                f"{self._parent} has {free} bytes free, but {', '.join(file.uri for file in versions.values())} needs "
                f"{needed}: enlarge the volume",
            )

    def free(self) -> int:
        """Return the number of free bytes on the file system."""
        with translate_os_errors(f"cannot determine the free space of {self._parent}"):
            status = os.statvfs(_nearest(self._parent))
        return status.f_bavail * status.f_frsize

    def require_writable(self) -> None:
        """Raise a `LoadError` unless the target directories can be written or created. For dry runs."""
        for directory in (self._parent, self._labels.parent):
            with translate_os_errors(f"cannot write to {directory}"):
                nearest = _nearest(directory)
                if not nearest.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is not a directory")
                if os.statvfs(nearest).f_flag & os.ST_RDONLY:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                if not os.access(nearest, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def published(self, name: str) -> Path:
        """Return the path of the published file of that name, which may not exist."""
        return self._current / name

    def verified_record(self, name: str, version: ObjectVersion) -> FileRecord | None:
        """Return the record of the published file of that name, if it has this version and its sha256 is correct."""
        for record in self._published.files if self._published else ():
            if record.name == name and version.matches(record):
                with suppress(OSError, ReceiptError):
                    record.check(self.published(name))
                    return record
        return None

    def reuse(self, name: str, version: ObjectVersion) -> FileRecord | None:
        """Stage the published file of that name and return its record; None if `verified_record` finds none."""
        if record := self.verified_record(name, version):
            with suppress(OSError):
                target = self.path(name)
                target.unlink(missing_ok=True)
                self.journal(name).unlink(missing_ok=True)  # so that no download is resumed into the published file
                target.hardlink_to(self.published(name).resolve())
                return record
        return None

    def current_receipt(self, records: list[FileRecord]) -> Receipt | None:
        """Return the published receipt if it lists exactly these files and all were reused; otherwise None."""
        if not self.is_published(records):
            return None
        reused = all((self._files / record.name).samefile(self.published(record.name)) for record in records)
        return self._published if reused else None

    def is_published(self, records: list[FileRecord]) -> bool:
        """Return whether the published receipt lists exactly these files and the final paths link to them."""
        published = self._published
        if published is None or tuple(records) != published.files:
            return False
        return all(self._is_linked(name, final) for name, final in self._finals(published).items())

    def publish(self, receipt: Receipt) -> None:
        """Make the staged files durable and read-only, and publish them with the receipt.

        Raises:
            LoadError: the file system reported an error; the final paths have their previous content.
        """
        finals = self._finals(receipt)
        stale = self._stale(finals)
        with translate_os_errors(f"cannot publish to {self._parent}"):
            self._write_receipt(receipt)
            release = _make_release(self._parent)
            seal(self._files, {self._files / name for name in finals})
            self._files.replace(release)
            if any(final.is_file() and not self._is_linked(name, final) for name, final in finals.items()):
                self._adopt({**stale, **finals})
            for name, final in finals.items():
                if not self._is_linked(name, final):
                    final.parent.mkdir(parents=True, exist_ok=True)
                    _replace_by_link(final, self._target(name, final))
                    sync(final.parent)
            self._switch_to(release)
            for link in stale.values():
                link.unlink()

    def _write_receipt(self, receipt: Receipt) -> None:
        path = self.path(RECEIPT)
        path.unlink(missing_ok=True)
        path.write_bytes(receipt.encode())

    def _adopt(self, finals: dict[str, Path]) -> None:
        """Copy the files at the final paths to a release, so that links to it have the same content."""
        directory = _make_release(self._parent)
        for name, final in finals.items():
            if final.is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(final, directory / name)
        seal(directory, {directory / name for name in finals})
        self._switch_to(directory)

    def _switch_to(self, directory: Path) -> None:
        _replace_by_link(self._current, directory.name)
        sync(self._parent)

    def _finals(self, receipt: Receipt) -> dict[str, Path]:
        finals = {record.name: self._parent / record.name for record in receipt.files}
        labels = {receipt.labels.name: self._labels} if receipt.labels else {}
        return finals | {RECEIPT: self._parent / RECEIPT} | labels

    def _stale(self, finals: dict[str, Path]) -> dict[str, Path]:
        """Return the links to published files that are no longer final paths."""
        records = self._published.files if self._published else ()
        links = {record.name: self._parent / record.name for record in records}
        if self._published and self._published.labels and self._labels not in finals.values():
            links[self._published.labels.name] = self._labels
        return {
            name: link for name, link in links.items() if link not in finals.values() and self._is_linked(name, link)
        }

    def _is_linked(self, name: str, final: Path) -> bool:
        return final.is_symlink() and str(final.readlink()) == self._target(name, final)

    def _target(self, name: str, final: Path) -> str:
        return os.path.relpath(self._current / name, final.parent)

    def _under(self, directory: Path, name: str) -> Path:
        path = directory / name
        with translate_os_errors(f"cannot create the directory {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _allocated(self, name: str) -> int:
        with suppress(OSError):
            return (self._files / name).stat().st_blocks * 512
        return 0


def staging_key(model: ObjectVersion) -> str:
    """Return the staging key for this version of a model."""
    return hashlib.sha256(f"{model.uri}#{model.version}".encode()).hexdigest()[:16]


def inspect_target(final_model: Path, final_labels: Path, key: str, kind: type[Staging] = Staging) -> Staging:
    """Return what `staging` would yield, without creating, locking or deleting anything."""
    return kind(*_real(final_model, final_labels), key)


@contextmanager
def staging(final_model: Path, final_labels: Path, key: str, kind: type[Staging] = Staging) -> Iterator[Staging]:
    """Lock the target directory for one load, and create it if needed.

    The remains of earlier loads are deleted first, unless they have the same key. At the end, staged files are deleted
    unless the next load can resume them.

    Args:
        final_model: final path of the model; releases are stored next to it.
        final_labels: final path of the label file.
        key: the staging key of the model, from `staging_key`.
        kind: the form of publication.

    Raises:
        LoadError: a directory cannot be written, or another loader is running in it.
    """
    for final in (final_model, final_labels):
        with translate_os_errors(f"cannot create the directory {final.parent}"):
            final.parent.mkdir(parents=True, exist_ok=True)
    finals = _real(final_model, final_labels)
    parent = finals[0].parent
    with translate_os_errors(f"cannot write to {parent}"), _lock(parent):
        keep = key
        _clear(finals, keep)
        try:
            yield kind(*finals, key)
            keep = ""
        except LoadError as error:
            keep = key if error.resumable else ""
            raise
        finally:
            _clear(finals, keep)


def _real(*finals: Path) -> tuple[Path, Path]:
    # Relative links between the directories start from their real paths.
    model, labels = (final.parent.resolve() / final.name for final in finals)
    return model, labels


def _nearest(directory: Path) -> Path:
    """Return the directory, or its nearest ancestor that exists."""
    return next(path for path in (directory, *directory.parents) if path.exists())


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LoadError("target-locked", f"another loader is running in {directory}: wait until it ends") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _clear(finals: tuple[Path, Path], keep: str) -> None:
    parent = finals[0].parent
    kept = {(parent / _CURRENT).resolve(), parent.resolve() / f"{_PARTIAL}{keep}"}
    for path in [*parent.glob(f"{_RELEASE}*"), *parent.glob(f"{_PARTIAL}*")]:
        if path.is_dir() and not path.is_symlink() and path.resolve() not in kept:
            shutil.rmtree(path, ignore_errors=True)  # it may belong to another user, which must not fail this load
    for directory in {final.parent for final in finals}:
        for link in directory.glob(f"{_LINK}*"):
            link.unlink()


def _make_release(parent: Path) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=_RELEASE, dir=parent))
    directory.chmod(0o755)  # the service runs as another user
    return directory


def seal(directory: Path, files: set[Path]) -> None:
    """Make these files of the directory read-only and durable, and delete all others."""
    for path in directory.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
            sync(path)
        elif path in files:
            path.chmod(0o444)
            sync(path)
        else:
            path.unlink()
    directory.chmod(0o755)
    sync(directory)


def _replace_by_link(path: Path, target: str) -> None:
    link = path.with_name(f"{_LINK}{path.name}")
    link.unlink(missing_ok=True)  # a killed loader can leave one
    link.symlink_to(target)
    link.replace(path)


def sync(path: Path) -> None:
    """Flush a file or the entries of a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
