"""Publication of a load as plain files in a directory, for programs that scan it, such as Triton in KServe.

Such programs take the hidden directories of `loader.release.staging` for models, and follow no links out of a model's
directory. Without links, no single rename can publish all files. So the models of the earlier load are deleted first,
and the new ones are published last, each with one rename: a model that is there is complete, and so are the files that
it needs. Programs must read the directory only after the loader has ended, as they do after an init container.
"""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from loader.errors import translate_os_errors
from loader.release.staging import Staging, seal, sync
from volume.receipt import RECEIPT, FileRecord, Receipt


class DirectoryStaging(Staging):
    """The staged files of one load, and the published ones, which are plain files."""

    def published(self, name: str) -> Path:
        """Return the path of the published file of that name, which may not exist."""
        return self._parent / name

    def is_published(self, records: list[FileRecord]) -> bool:
        """Return whether the published receipt lists exactly these files, and all are there."""
        if self._published is None or tuple(records) != self._published.files:
            return False
        return all(self.published(record.name).is_file() for record in records)

    def publish(self, receipt: Receipt) -> None:
        """Make the staged files durable and read-only, and publish them with the receipt, models last.

        Raises:
            LoadError: the file system reported an error; if it is not at the first step, no model is in the directory.
        """
        names = [record.name for record in receipt.files]
        with translate_os_errors(f"cannot publish to {self._parent}"):
            self._write_receipt(receipt)
            seal(self._files, {self._files / name for name in (*names, RECEIPT)})
            if earlier := self._published:
                models = _models(earlier)
                self._delete(file.name for file in earlier.files if file.name in models or file.name not in names)
            models = _models(receipt)
            self._move([RECEIPT, *(name for name in names if name not in models)])
            self._move([name for name in names if name in models])
            self._current.unlink(missing_ok=True)  # so that the releases of an earlier load with links can be deleted

    def _delete(self, names: Iterable[str]) -> None:
        """Delete published files, and the directories that become empty."""
        for name in names:
            path = self._final(name)
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                for directory in path.relative_to(self._parent).parents[:-1]:
                    (self._parent / directory).rmdir()

    def _move(self, names: list[str]) -> None:
        """Move staged files to their final paths."""
        for name in names:
            final = self._final(name)
            for directory in reversed(final.relative_to(self._parent).parents[:-1]):
                with suppress(FileExistsError):
                    (self._parent / directory).mkdir()
                    (self._parent / directory).chmod(0o755)  # the server runs as another user
            (self._files / name).replace(final)
            sync(final.parent)
        sync(self._parent)

    def _final(self, name: str) -> Path:
        """Return the final path of a file, which must not lead out of the directory through a link."""
        final = self._parent / name
        if final.parent.resolve() != final.parent:
            raise OSError(errno.ELOOP, f"{final.parent} {os.strerror(errno.ELOOP).lower()}")
        return final


def _models(receipt: Receipt) -> set[str]:
    """Return the names of the ONNX files in a receipt; a single model can have any name."""
    return {receipt.model.name, *(file.name for file in receipt.files if is_model(file.name))}


def is_model(name: str) -> bool:
    """Return whether this is the name of an ONNX file."""
    return name.endswith(".onnx")
