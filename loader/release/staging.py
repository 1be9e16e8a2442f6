"""Putting the files of a load at their final paths in one instant.

Two renames are not one: killed between them, a loader would leave a new model with old labels. So the files of a
load stand together in a release directory beside the model, the final paths are symbolic links through `.current`,
and the rename of that one link is the moment of publishing. Kubernetes updates the files of a ConfigMap the same way
(pkg/volume/util/atomic_writer.go).

Until then they are staged in `.model-partial-<key>`. A run that was killed leaves that directory to the next one, which
takes it up if its key is the same and clears it if not.
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
    """The files of one load before they are published, and what is published already."""

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
            self._published = Receipt.read(self._current)

    def path(self, name: str) -> Path:
        """Return where to stage the file of that name; a `LoadError` says why its directory cannot be made."""
        return self._under(self._files, name)

    def journal(self, name: str) -> Path:
        """Return where to keep the journal of that file's download."""
        return self._under(self._journals, name)

    def require_space(self, versions: dict[str, ObjectVersion]) -> None:
        """Raise `NoSpaceError` unless the file system can take what is not yet here of the named files."""
        free = self.free()
        needed = sum(version.size - self._allocated(name) for name, version in versions.items())
        if needed > free:
            raise NoSpaceError(
                "disk-full",
                f"{self._parent} has {free} bytes free, but {', '.join(file.uri for file in versions.values())} needs "
                f"{needed}: enlarge the volume",
            )

    def free(self) -> int:
        """Return how many bytes the file system has free."""
        with translate_os_errors(f"cannot determine the free space of {self._parent}"):
            status = os.statvfs(_nearest(self._parent))
        return status.f_bavail * status.f_frsize

    def require_writable(self) -> None:
        """Raise a `LoadError` unless the directories can be written, or made; a load finds out by doing it."""
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
        """Return where the published file of that name is, if there is one."""
        return self._current / name

    def verified_record(self, name: str, version: ObjectVersion) -> FileRecord | None:
        """Return the record of the published file of that name, if it is that version and its bytes are whole."""
        for record in self._published.files if self._published else ():
            if record.name == name and version.matches(record):
                with suppress(OSError, ReceiptError):
                    record.check(self.published(name))
                    return record
        return None

    def reuse(self, name: str, version: ObjectVersion) -> FileRecord | None:
        """Stage the published file of that name, if it is that version and its bytes are whole; else return None."""
        if record := self.verified_record(name, version):
            with suppress(OSError):
                target = self.path(name)
                target.unlink(missing_ok=True)
                self.journal(name).unlink(missing_ok=True)  # lest a download be resumed into the published file
                target.hardlink_to(self.published(name))
                return record
        return None

    def current_receipt(self, records: list[FileRecord]) -> Receipt | None:
        """Return the receipt of what is published, if that is exactly these files and all of them whole; else None."""
        if not self.is_published(records):
            return None
        reused = all((self._files / record.name).samefile(self.published(record.name)) for record in records)
        return self._published if reused else None

    def is_published(self, records: list[FileRecord]) -> bool:
        """Return whether the receipt lists exactly these files, and the final paths lead to what is published."""
        published = self._published
        if published is None or tuple(records) != published.files:
            return False
        return all(self._is_linked(name, final) for name, final in self._finals(published).items())

    def publish(self, receipt: Receipt) -> None:
        """Make the staged files durable and read-only, and have them appear at the final paths with the receipt.

        Raises:
            LoadError: the file system refused; the final paths read as they did before.
        """
        finals = self._finals(receipt)
        stale = self._stale(finals)
        with translate_os_errors(f"cannot publish to {self._parent}"):
            receipt_path = self.path(RECEIPT)
            receipt_path.unlink(missing_ok=True)
            receipt_path.write_bytes(receipt.encode())
            release = _make_release(self._parent)
            _seal(self._files, {self._files / name for name in finals})
            self._files.replace(release)
            if any(final.is_file() and not self._is_linked(name, final) for name, final in finals.items()):
                self._adopt({**stale, **finals})
            for name, final in finals.items():
                if not self._is_linked(name, final):
                    final.parent.mkdir(parents=True, exist_ok=True)
                    _replace_by_link(final, self._target(name, final))
                    _sync(final.parent)
            self._switch_to(release)
            for link in stale.values():
                link.unlink()

    def _adopt(self, finals: dict[str, Path]) -> None:
        """Make a release of what stands at the final paths, so that linking them changes nothing that is read."""
        directory = _make_release(self._parent)
        for name, final in finals.items():
            if final.is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(final, directory / name)
        _seal(directory, {directory / name for name in finals})
        self._switch_to(directory)

    def _switch_to(self, directory: Path) -> None:
        _replace_by_link(self._current, directory.name)
        _sync(self._parent)

    def _finals(self, receipt: Receipt) -> dict[str, Path]:
        finals = {record.name: self._parent / record.name for record in receipt.files}
        labels = {receipt.labels.name: self._labels} if receipt.labels else {}
        return finals | {RECEIPT: self._parent / RECEIPT} | labels

    def _stale(self, finals: dict[str, Path]) -> dict[str, Path]:
        """Return the links to files of the published model that are none of the final paths."""
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
        with translate_os_errors(f"cannot make the directory {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _allocated(self, name: str) -> int:
        with suppress(OSError):
            return (self._files / name).stat().st_blocks * 512
        return 0


def staging_key(model: ObjectVersion) -> str:
    """Return the key under which a load of this version of a model is staged."""
    return hashlib.sha256(f"{model.uri}#{model.version}".encode()).hexdigest()[:16]


def inspect_target(final_model: Path, final_labels: Path, key: str) -> Staging:
    """Return what `staging` would yield, only to look at: nothing is made, held or cleared."""
    return Staging(*_real(final_model, final_labels), key)


@contextmanager
def staging(final_model: Path, final_labels: Path, key: str) -> Iterator[Staging]:
    """Hold the target directory for one load; what it leaves is published, or can be resumed, or is cleared.

    Directories that do not exist are made, and what earlier loaders left behind is cleared first, unless they staged
    under the same key.

    Args:
        final_model: final path of the model; releases stand beside it.
        final_labels: final path of the label file.
        key: of what is loaded; letters and digits.

    Raises:
        LoadError: a directory cannot be written, or another loader is at work in it.
    """
    for final in (final_model, final_labels):
        with translate_os_errors(f"cannot make the directory {final.parent}"):
            final.parent.mkdir(parents=True, exist_ok=True)
    finals = _real(final_model, final_labels)
    parent = finals[0].parent
    with translate_os_errors(f"cannot write to {parent}"), _lock(parent):
        keep = key
        _clear(finals, keep)
        try:
            yield Staging(*finals, key)
            keep = ""
        except LoadError as error:
            keep = key if error.resumable else ""
            raise
        finally:
            _clear(finals, keep)


def _real(*finals: Path) -> tuple[Path, Path]:
    # A link that goes up, as from the labels' directory to the model's, goes up from where the directory really is.
    model, labels = (final.parent.resolve() / final.name for final in finals)
    return model, labels


def _nearest(directory: Path) -> Path:
    """Return the directory, or if it does not exist, the nearest above it that does."""
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
            shutil.rmtree(path, ignore_errors=True)  # of a run as another user, say: no reason to fail this one
    for directory in {final.parent for final in finals}:
        for link in directory.glob(f"{_LINK}*"):
            link.unlink()


def _make_release(parent: Path) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=_RELEASE, dir=parent))
    directory.chmod(0o755)  # the service reads it as another user
    return directory


def _seal(directory: Path, files: set[Path]) -> None:
    """Make the files of the directory read-only and durable, having removed all others."""
    for path in directory.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
            _sync(path)
        elif path in files:
            path.chmod(0o444)
            _sync(path)
        else:
            path.unlink()
    directory.chmod(0o755)
    _sync(directory)


def _replace_by_link(path: Path, target: str) -> None:
    link = path.with_name(f"{_LINK}{path.name}")
    link.unlink(missing_ok=True)  # from a loader that was killed right here
    link.symlink_to(target)
    link.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
