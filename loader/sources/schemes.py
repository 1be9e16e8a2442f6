"""The table of sources by URI scheme."""

from collections.abc import Callable

from loader.errors import LoadError
from loader.progress import Progress
from loader.settings import Settings
from loader.sources.base import Source
from loader.watchdog import Deadline

SourceFactory = Callable[[Settings, Deadline, Progress], Source]


def _local(settings: Settings, deadline: Deadline, progress: Progress) -> Source:
    from loader.sources.local import LocalSource  # noqa: PLC0415

    return LocalSource(settings, deadline, progress)


def _gcs(settings: Settings, deadline: Deadline, progress: Progress) -> Source:
    from loader.sources.gcs import GcsSource  # noqa: PLC0415

    return GcsSource(settings, deadline, progress)


def _s3(settings: Settings, deadline: Deadline, progress: Progress) -> Source:
    from loader.sources.s3 import S3Source  # noqa: PLC0415

    return S3Source(settings, deadline, progress)


def _https(settings: Settings, deadline: Deadline, progress: Progress) -> Source:
    from loader.sources.https import HttpsSource  # noqa: PLC0415

    return HttpsSource(settings, deadline, progress)


def _oci(settings: Settings, deadline: Deadline, progress: Progress) -> Source:
    from loader.sources.oci import OciSource  # noqa: PLC0415

    return OciSource(settings, deadline, progress)


# Imports take most of the time of a small load, so each source is imported when it is first used.
SOURCES: dict[str, SourceFactory] = {"file": _local, "gs": _gcs, "https": _https, "oci": _oci, "s3": _s3}


class Sources:
    """The sources of one load, each created for the first URI with its scheme."""

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._arguments = settings, deadline, progress
        self._open: dict[str, Source] = {}

    def for_uri(self, uri: str) -> Source:
        """Return the source of a URI with a valid scheme."""
        scheme = uri.partition("://")[0]
        if scheme not in self._open:
            try:
                self._open[scheme] = SOURCES[scheme](*self._arguments)
            except ImportError as error:
                raise LoadError(
                    "package-missing",
                    f"cannot load from {scheme}:// ({error}): install every package in loader/requirements.txt",
                ) from error
        return self._open[scheme]
