"""A model in a Google Cloud Storage bucket."""

import math
import os
from functools import partial
from pathlib import Path

from loader.digest import Digest
from loader.progress import Progress
from loader.retry import Backoff, Setback
from loader.settings import Settings
from loader.sources import Artifact
from loader.sources.gcs_client import GcsClient
from loader.sources.journal import Journal
from loader.sources.ranges import RangeDownload
from loader.watchdog import Deadline

_BYTES_PER_WORKER = 64 << 20
_MOST_WORKERS = min(4, os.cpu_count() or 1)


class GcsSource:
    """The objects that `GCS_BUCKET`, `GCS_MODEL_BLOB` and `GCS_LABEL_BLOB` name."""

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._bucket = settings.gcs_bucket
        self._model = settings.gcs_model_blob
        self._labels = settings.gcs_label_blob or self._beside("label.json")
        self._model_generation = settings.gcs_model_generation
        self._label_generation = settings.gcs_label_generation
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

    def model(self) -> Artifact:
        """Return the model's object, in the generation that is asked for or else the newest."""
        return self._artifact(self._model, self._model_generation)

    def labels(self) -> Artifact:
        """Return the label file's object, likewise."""
        return self._artifact(self._labels, self._label_generation)

    def beside_model(self, location: str) -> Artifact:
        """Return the newest generation of the object beside the model's."""
        return self._artifact(self._beside(location), None)

    def fetch(self, artifact: Artifact, target: Path, journal: Path) -> Digest:
        """Fetch the object in ranges, several at once if it is large."""
        workers = self._workers or max(1, min(_MOST_WORKERS, math.ceil(artifact.size / _BYTES_PER_WORKER)))
        open_range = partial(self._client.read, self._bucket, artifact)
        notes = Journal(journal, artifact, target)
        return RangeDownload(open_range, notes, workers, self._deadline, self._progress).run()

    def _beside(self, location: str) -> str:
        directory, slash, _ = self._model.rpartition("/")
        return f"{directory}{slash}{location}"

    def _artifact(self, name: str, generation: int | None) -> Artifact:
        uri = f"gs://{self._bucket}/{name}"
        backoff = Backoff(f"cannot look up {uri}", self._deadline, self._progress)
        while True:
            try:
                metadata = self._client.metadata(self._bucket, name, generation)
            except Setback as setback:
                backoff.pause(setback)
            else:
                return Artifact(name, uri, metadata.size, metadata.generation, metadata.crc32c)
