"""A model in a Google Cloud Storage bucket."""

import math
import os
from functools import partial
from pathlib import Path

from loader.checksums import Digest
from loader.progress import Progress
from loader.settings import Settings
from loader.sources.base import ObjectVersion, Source
from loader.sources.gcs_client import GcsClient
from loader.transfer.journal import Journal
from loader.transfer.ranges import RangeDownload
from loader.transfer.retry import Backoff, Setback
from loader.watchdog import Deadline

_BYTES_PER_WORKER = 64 << 20
_MOST_WORKERS = min(4, os.cpu_count() or 1)


class GcsSource(Source):
    """Objects, by `gs://bucket/name` URIs; a version is a generation."""

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._workers = settings.download_workers
        self._deadline = deadline
        self._progress = progress
        endpoint = settings.gcs_endpoint
        anonymous = settings.gcs_anonymous
        if emulator := settings.storage_emulator_host:
            endpoint = emulator if "://" in emulator else f"http://{emulator}"
            anonymous = True
        self._client = GcsClient(
            endpoint.rstrip("/"),
            stall_seconds=settings.stall_timeout_seconds,
            connections=settings.download_workers or _MOST_WORKERS,
            anonymous=anonymous,
        )

    @property
    def credentials(self) -> str:
        """What google-auth has found, or none."""
        return self._client.credentials

    def look_up(self, uri: str, version: str) -> ObjectVersion:
        """Return the object, in the generation that is asked for or else the newest."""
        bucket, name = _split(uri)
        backoff = Backoff(f"cannot look up {uri}", self._deadline, self._progress)
        while True:
            try:
                metadata = self._client.metadata(bucket, name, version)
            except Setback as setback:
                backoff.pause(setback)
            else:
                return ObjectVersion(uri, metadata.size, str(metadata.generation), {"crc32c": metadata.crc32c})

    def beside(self, uri: str, location: str) -> str:
        """Return the URI of the object whose name differs after the last slash."""
        bucket, name = _split(uri)
        directory, slash, _ = name.rpartition("/")
        return f"gs://{bucket}/{directory}{slash}{location}"

    def fetch(self, found: ObjectVersion, target: Path, journal: Path) -> Digest:
        """Fetch the object in ranges, several at once if it is large."""
        workers = self._workers or max(1, min(_MOST_WORKERS, math.ceil(found.size / _BYTES_PER_WORKER)))
        open_range = partial(self._client.read, *_split(found.uri), found)
        notes = Journal(journal, found, target)
        return RangeDownload(open_range, notes, workers, self._deadline, self._progress).run()


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name
