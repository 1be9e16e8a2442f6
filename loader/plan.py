"""A load that is only planned: what can be known of it while nothing is written."""

from pathlib import Path

from msgspec import Struct

from loader.errors import NotFoundError, during
from loader.load import look_up
from loader.progress import Progress
from loader.publish import Staging, look_at, staging_key
from loader.settings import Settings
from loader.sources import Artifact, open_source
from loader.verify import check_labels, check_labels_size, check_names, check_sha256, external_data
from loader.watchdog import Deadline
from volume.receipt import FileRecord, sha256_of


class PlannedFile(Struct, frozen=True, kw_only=True):
    """One file that a load would bring.

    Attributes:
        uri: where from.
        generation: which version of it.
        size: in bytes.
        crc32c: as the source says.
        sha256: None while its bytes are not here.
        target: its final path.
        in_place: whether it stands there already, and whole.
    """

    uri: str
    generation: int
    size: int
    crc32c: str | None
    sha256: str | None
    target: str
    in_place: bool


class Plan(Struct, frozen=True, kw_only=True):
    """What a load would do.

    Attributes:
        artifacts: the model, its label file and its external data.
        all_known: whether those are all; the model names its external data, and may not be here to be read.
        in_place: whether nothing would change.
        bytes_free: on the target's file system.
        credentials: the kind of those that the source was asked with.
    """

    artifacts: tuple[PlannedFile, ...]
    all_known: bool
    in_place: bool
    bytes_free: int
    credentials: str


class _Here(Struct, frozen=True, kw_only=True):
    """Bytes that need no fetching: the record that they have or would have, and where they are."""

    record: FileRecord
    path: Path
    in_place: bool


def plan(settings: Settings, deadline: Deadline, progress: Progress) -> Plan:
    """Say what a load would bring, having checked what can be without fetching or writing anything.

    Raises:
        LoadError: the load would fail; the message says why.
    """
    source = open_source(settings, deadline, progress)
    artifacts = look_up(settings, source, progress)
    model, labels = artifacts
    check_labels_size(artifacts[labels].uri, artifacts[labels].size)
    place = look_at(settings.model_filepath, settings.label_filepath, staging_key(artifacts[model]))
    place.require_writable()
    progress.doing = "checking what is here already"
    here = _look_here(settings, place, artifacts)
    if found := here.get(model):
        check_sha256(found.record, settings.model_sha256, "MODEL_SHA256")
    if named := here.get(labels):
        check_sha256(named.record, settings.label_sha256, "LABEL_SHA256")
        check_labels(named.path, named.record.uri)
    if found:
        locations = external_data(found.path, found.record.uri)
        check_names(model, labels, locations)
        beside = {location: source.beside_model(location) for location in locations}
        artifacts |= beside
        here |= _look_here(settings, place, beside)
    standing = [file.record for file in here.values() if file.in_place]
    place.require_space(
        {name: artifact for name, artifact in artifacts.items() if name not in here or not here[name].in_place}
    )
    planned = Plan(
        artifacts=tuple(_planned(settings, name, artifact, here.get(name)) for name, artifact in artifacts.items()),
        all_known=found is not None,
        in_place=len(standing) == len(artifacts) and place.stand(standing),
        bytes_free=place.free(),
        credentials=source.credentials,
    )
    progress.would_load(planned)
    return planned


def _look_here(settings: Settings, place: Staging, artifacts: dict[str, Artifact]) -> dict[str, _Here]:
    """Return what is here of the artifacts: what stands at its final path already, and all that is local."""
    here = {}
    for name, artifact in artifacts.items():
        if record := place.whole(name, artifact):
            here[name] = _Here(record=record, path=place.published(name), in_place=True)
        elif settings.use_local_model:
            path = Path(artifact.name)
            with during(f"cannot read the local file {path}", missing=NotFoundError):
                sha256 = sha256_of(path)
            record = FileRecord(
                name=name,
                uri=artifact.uri,
                generation=artifact.generation,
                size=artifact.size,
                sha256=sha256,
                crc32c=artifact.crc32c or "",
            )
            here[name] = _Here(record=record, path=path, in_place=False)
    return here


def _planned(settings: Settings, name: str, artifact: Artifact, here: _Here | None) -> PlannedFile:
    labels = settings.label_filepath
    return PlannedFile(
        uri=artifact.uri,
        generation=artifact.generation,
        size=artifact.size,
        crc32c=artifact.crc32c,
        sha256=here.record.sha256 if here else None,
        target=str(labels if name == labels.name else settings.model_filepath.parent / name),
        in_place=here is not None and here.in_place,
    )
