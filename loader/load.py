"""A load, from settings to published files."""

from loader import __version__
from loader.errors import ReplacedError
from loader.progress import Progress
from loader.publish import Staging, staging, staging_key
from loader.settings import Settings
from loader.sources import Artifact, Source, open_source
from loader.verify import check_labels, check_labels_size, check_names, check_sha256, external_data
from loader.watchdog import Deadline
from volume.receipt import FileRecord, Receipt

_MOST_RESTARTS = 3


def load(settings: Settings, deadline: Deadline, progress: Progress) -> Receipt:
    """Bring a model, its label file and its external data to their final paths, and return the receipt.

    Whenever it stops, the final paths hold either all that is new or what was there before.

    Raises:
        LoadError: nothing new was published; the message says why.
    """
    source = open_source(settings, deadline, progress)
    restarts = 0
    while True:
        try:
            receipt, in_place = _attempt(settings, source, deadline, progress)
        except ReplacedError as error:
            if restarts == _MOST_RESTARTS:
                raise
            restarts += 1
            progress.retry(str(error), 0)
        else:
            progress.done(receipt, in_place=in_place)
            return receipt


def _attempt(settings: Settings, source: Source, deadline: Deadline, progress: Progress) -> tuple[Receipt, bool]:
    """Publish the files that the source has now, unless they stand there; return the receipt and whether they did."""
    pair = look_up(settings, source, progress)
    model, labels = pair.values()
    check_labels_size(labels.uri, labels.size)
    with staging(settings.model_filepath, settings.label_filepath, staging_key(model)) as staged:
        records = _stage(settings, source, staged, pair, progress)
        if standing := staged.standing(records):
            progress.model = standing.identity
            return standing, True
        receipt = Receipt(
            model=records[0],
            labels=records[1],
            external_data=tuple(records[2:]),
            started=deadline.started,
            seconds=round(deadline.elapsed(), 3),
            attempts=1 + progress.retries,
            loader_version=__version__,
        )
        progress.model = receipt.identity
        progress.doing = "publishing"
        staged.publish(receipt)
        return receipt, False


def _stage(
    settings: Settings, source: Source, staged: Staging, pair: dict[str, Artifact], progress: Progress
) -> list[FileRecord]:
    """Stage the pair and the model's external data, all of it checked."""
    model, labels = _bring(source, staged, pair, progress)
    check_sha256(model, settings.model_sha256, "MODEL_SHA256")
    check_sha256(labels, settings.label_sha256, "LABEL_SHA256")
    progress.doing = f"checking {model.uri}"
    check_labels(staged.path(labels.name), labels.uri)
    locations = external_data(staged.path(model.name), model.uri)
    check_names(model.name, labels.name, locations)
    beside = {location: source.beside_model(location) for location in locations}
    records = [model, labels, *_bring(source, staged, beside, progress)]
    # What was looked up later may be of a later upload than what was looked up first.
    now = [*look_up(settings, source, progress).values(), *map(source.beside_model, locations)]
    for artifact, record in zip(now, records, strict=True):
        if not artifact.is_in(record):
            raise ReplacedError(f"{artifact.uri} was overwritten while the model was loaded: load it again")
    return records


def look_up(settings: Settings, source: Source, progress: Progress) -> dict[str, Artifact]:
    """Return the model and its label file as they are at the source now, by the names they are to have here."""
    progress.doing = "looking up the model and its label file"
    return {settings.model_filepath.name: source.model(), settings.label_filepath.name: source.labels()}


def _bring(source: Source, staged: Staging, artifacts: dict[str, Artifact], progress: Progress) -> list[FileRecord]:
    """Stage the artifacts under their names: what is published already from there, the rest from the source."""
    records = {name: staged.reuse(name, artifact) for name, artifact in artifacts.items()}
    staged.require_space({name: artifact for name, artifact in artifacts.items() if records[name] is None})
    return [records[name] or _fetch(source, staged, name, artifact, progress) for name, artifact in artifacts.items()]


def _fetch(source: Source, staged: Staging, name: str, artifact: Artifact, progress: Progress) -> FileRecord:
    progress.start(artifact.uri, artifact.size, artifact.generation)
    digest = source.fetch(artifact, staged.path(name), staged.journal(name))
    return FileRecord(
        name=name,
        uri=artifact.uri,
        generation=artifact.generation,
        size=digest.size,
        sha256=digest.sha256,
        crc32c=digest.crc32c,
    )
