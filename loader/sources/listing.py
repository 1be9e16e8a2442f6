"""A bounded list of the files below a prefix."""

from loader.errors import IntegrityError
from loader.settings import Settings
from volume.receipt import RECEIPT


class Listing:
    """Counts the files below a prefix, and checks their names.

    Args:
        uri: the prefix.
        settings: they limit the number and the total size of the files.
    """

    def __init__(self, uri: str, settings: Settings) -> None:
        self._uri = uri
        self._max_files = settings.max_files
        self._max_bytes = settings.max_total_bytes
        self._files = self._bytes = 0

    def includes(self, name: str, size: int) -> bool:
        """Return whether to load a file; hidden files, the receipt of another load and markers of folders are ignored.

        Args:
            name: its path relative to the prefix.
            size: its size in bytes.

        Raises:
            IntegrityError: the name is not a path inside the directory, or there are too many files or bytes.
        """
        parts = name.split("/")
        if name == "" or (name.endswith("/") and size == 0) or name == RECEIPT:
            return False
        if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise IntegrityError(
                "name-refused", f"{self._uri} has a file {name!r}, expected names that are paths inside the directory"
            )
        if any(part.startswith(".") for part in parts):
            return False
        self._files += 1
        self._bytes += size
        if self._files > self._max_files or self._bytes > self._max_bytes:
            raise IntegrityError(
                "prefix-too-large",
                f"{self._uri} has more than {self._max_files} files or {self._max_bytes} bytes (MAX_FILES, "
                "MAX_TOTAL_BYTES): name the model's own directory, or raise the limit",
            )
        return True
