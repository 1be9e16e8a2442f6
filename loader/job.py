"""A load: resolve the files, fetch, verify and publish them. A dry run fetches and publishes nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from loader import __version__
from loader.errors import IntegrityError, NotFoundError, ReplacedError, UsageError, translate_os_errors
from loader.progress import Plan, PlannedFile, Progress
from loader.release.directory import DirectoryStaging, is_model
from loader.release.staging import Staging, inspect_target, staging, staging_key
from loader.settings import Settings
from loader.sources.base import ObjectVersion
from loader.sources.schemes import Sources
from loader.verification.compatibility import check_compatibility
from loader.verification.files import check_labels, check_labels_size, check_names, check_sha256, read_model
from loader.verification.identity import check_identity
from loader.watchdog import Deadline
from volume.receipt import FileRecord, Receipt, sha256_of

if TYPE_CHECKING:
    from loader.verification.signature import SignedModel
    from volume.onnx_file import OnnxInfo

_MOST_RESTARTS = 3
_ABSENT = ("file-missing", "object-missing")

Versions = dict[str, ObjectVersion]


class LocalFile(Struct, frozen=True, kw_only=True):
    """A file on this machine.

    Attributes:
        record: its entry in the receipt.
        path: where it can be read.
        in_place: whether it is already published.
    """

    record: FileRecord
    path: Path
    in_place: bool = False


Files = Mapping[str, LocalFile]


class Job:
    """One load, or with `DRY_RUN` a report of what the load would do. Files are identified by their final names.

    Whenever a load stops, the final paths hold either all new files or the previous ones.
    """

    def __init__(self, settings: Settings, deadline: Deadline, progress: Progress) -> None:
        self._settings = settings
        self._deadline = deadline
        self._progress = progress
        self._sources = Sources(settings, deadline, progress)
        self._paths = settings.final_paths
        self._model, self._labels = (path.name for path in self._paths)
        self._uri = settings.model.uri
        self._source = self._sources.for_uri(self._uri)
        self._onnx: OnnxInfo | None = None
        self._others: tuple[str, ...] = ()  # the files that the identity covers, besides the model
        self._signed: SignedModel | None = None
        self._signed_names: dict[str, str] = {}

    def run(self) -> None:
        """Publish the model, its label file and its external data, or report what a load would publish.

        Raises:
            LoadError: nothing was published.
        """
        restarts = 0
        while True:
            try:
                return self._attempt()
            except ReplacedError as error:
                if restarts == _MOST_RESTARTS:
                    raise
                restarts += 1
                self._progress.retry(str(error), 0)

    def _attempt(self) -> None:
        pair = self._resolve()
        if self._labels not in pair:
            self._progress.no_labels()
        self._signed = self._find_signature(pair)
        self._check_verifiable(pair)
        with self._open_target(pair) as target:
            files = self._obtain(target, pair)
            versions = pair | self._resolve_external_data(self._verify(files))
            self._check_verifiable(versions)
            files |= self._obtain(target, {name: found for name, found in versions.items() if name not in pair})
            self._verify_all(files)
            if self._settings.dry_run:
                self._report(target, versions, files)
            else:
                self._require_unchanged(versions)
                self._publish(target, files)

    @property
    def _is_prefix(self) -> bool:
        """Whether to load all files below the URI."""
        return self._settings.model_directory is not None and self._uri.endswith("/")

    def _resolve(self) -> Versions:
        """Return the current versions of the model and, if it exists, its label file; for a prefix, of all files."""
        self._progress.step = "looking up the model and its label file"
        if self._is_prefix:
            return self._resolve_all(self._source.list_files(self._uri))
        try:
            found = {self._model: self._source.resolve(self._uri, self._settings.model.version)}
        except NotFoundError as error:
            return self._resolve_all(self._list_instead(error))
        if labels := self._resolve_labels():
            check_labels_size(labels.uri, labels.size)
            found[self._labels] = labels
        return found

    def _list_instead(self, error: NotFoundError) -> Mapping[str, ObjectVersion]:
        """Return the files below the URI, which names no file; raise the error if there are none."""
        if self._settings.model_directory is None or error.code == "version-missing":
            raise error
        files: Mapping[str, ObjectVersion] = {}
        with suppress(UsageError, NotFoundError):
            files = self._source.list_files(f"{self._uri}/")
        if not files:
            raise error
        self._uri += "/"
        return files

    def _resolve_all(self, files: Mapping[str, ObjectVersion]) -> Versions:
        """Choose the model among the files below a prefix: the first ONNX file that is not in a deeper directory."""
        if self._settings.model.version or any(self._settings.labels):
            raise UsageError(
                "settings-invalid",
                f"{self._uri} is a prefix, and a version or a label file is set: remove the setting, and pin the files "
                "with MODEL_SHA256",
            )
        if self._settings.requires_signature:
            files = {name: found for name, found in files.items() if found.uri != self._signature_uri}
        models = sorted(filter(is_model, files), key=lambda name: (name.count("/"), name))
        if not models:
            raise NotFoundError("object-missing", f"{self._uri} has no .onnx file below it: check the URI")
        self._model = models[0]
        self._others = tuple(sorted(files.keys() - {self._model, self._labels}))
        check_names(self._model, self._labels, self._others)
        if labels := files.get(self._labels):
            check_labels_size(labels.uri, labels.size)
        elif self._settings.label_sha256:
            raise NotFoundError("object-missing", f"{self._uri}{self._labels} does not exist, but LABEL_SHA256 is set")
        return {name: files[name] for name in (self._model, self._labels, *self._others) if name in files}

    def _resolve_labels(self) -> ObjectVersion | None:
        """Return the label file, or None if no setting names one and none is next to the model."""
        wanted = self._settings.labels
        uri = wanted.uri or self._source.resolve_sibling(self._settings.model.uri, "label.json")
        try:
            return self._sources.for_uri(uri).resolve(uri, wanted.version)
        except NotFoundError as error:
            is_named = wanted.uri or wanted.version or self._settings.label_sha256
            if is_named or error.code not in _ABSENT:
                raise
            return None

    def _find_signature(self, pair: Versions) -> "SignedModel | None":
        """Return the verified signature, or None if no signature is required."""
        if not self._settings.requires_signature:
            return None
        from loader.verification.signature import find_signature, relative_name  # noqa: PLC0415 (the import takes 50 ms)

        self._progress.step = "verifying the model's signature"
        model = pair[self._model].uri
        if not self._is_prefix:
            self._signed_names = {name: relative_name(self._source, model, found.uri) for name, found in pair.items()}
        uri = self._signature_uri
        return find_signature(self._settings, self._sources.for_uri(uri), uri)

    @property
    def _signature_uri(self) -> str:
        return self._settings.signature_uri or self._source.resolve_sibling(self._uri, "model.sig")

    def _check_verifiable(self, versions: Versions) -> None:
        """Check that each file can be verified: by a signature, a checksum of its source, or a pinned sha256."""
        pins = {self._labels: "LABEL_SHA256"}
        for name, found in versions.items():
            pin = pins.get(name, "MODEL_SHA256")
            if self._signed:
                self._signed.check_listed(self._signed_names.get(name, name), found.uri)
                continue
            is_local = self._sources.for_uri(found.uri).path(found) is not None
            if not (found.checksums or is_local or getattr(self._settings, pin.lower())):
                raise IntegrityError(
                    "checksum-missing",
                    f"{found.uri} has no checksum at its source, so its bytes cannot be verified: set {pin}",
                )

    @contextmanager
    def _open_target(self, pair: Versions) -> Iterator[Staging]:
        """Lock the target directory for the block; in a dry run, only inspect it."""
        key = staging_key(pair[self._model])
        kind = Staging if self._settings.model_directory is None else DirectoryStaging
        if self._settings.dry_run:
            target = inspect_target(*self._paths, key, kind)
            target.require_writable()
            yield target
        else:
            with staging(*self._paths, key, kind) as target:
                yield target

    def _obtain(self, target: Staging, versions: Versions) -> dict[str, LocalFile]:
        """Stage the files: reuse published ones, fetch the others. In a dry run, return those on this machine."""
        if self._settings.dry_run:
            self._progress.step = "checking the published files"
            local = {name: self._find_local(target, name, found) for name, found in versions.items()}
            return {name: file for name, file in local.items() if file}
        records = {name: target.reuse(name, found) for name, found in versions.items()}
        target.require_space({name: found for name, found in versions.items() if records[name] is None})
        return {
            name: LocalFile(record=records[name] or self._fetch(target, name, found), path=target.path(name))
            for name, found in versions.items()
        }

    def _fetch(self, target: Staging, name: str, found: ObjectVersion) -> FileRecord:
        self._progress.start(found.uri, found.size, found.version)
        digest = self._sources.for_uri(found.uri).fetch(found, target.path(name), target.journal(name))
        return _record(name, found, digest.sha256)

    def _find_local(self, target: Staging, name: str, found: ObjectVersion) -> LocalFile | None:
        """Return the file if it is already published, or if its source is on this machine."""
        if record := target.verified_record(name, found):
            return LocalFile(record=record, path=target.published(name), in_place=True)
        if path := self._sources.for_uri(found.uri).path(found):
            with translate_os_errors(f"cannot read the local file {path}", missing=NotFoundError):
                return LocalFile(record=_record(name, found, sha256_of(path)), path=path)
        return None

    def _verify(self, files: Files) -> list[str]:
        """Check models and labels that are on this machine; return the names of external data to look up."""
        self._check_signed(files)
        locations: tuple[str, ...] = ()
        if self._is_prefix:
            self._verify_models(files)
        elif model := files.get(self._model):
            locations = self._verify_model(model)
        if labels := files.get(self._labels):
            check_sha256(labels.record, self._settings.label_sha256, "LABEL_SHA256")
            self._progress.step = f"checking {labels.record.uri}"
            check_labels(labels.path, labels.record.uri)
        return list(locations)

    def _verify_model(self, model: LocalFile) -> tuple[str, ...]:
        try:
            self._onnx = self._read_model(model)
        except IntegrityError:
            # If the file is not the pinned one, report that instead.
            check_identity(model.record, [], self._settings.model_sha256)
            raise
        if not self._onnx.external_data:
            check_identity(model.record, [], self._settings.model_sha256)
        self._check_compatibility(model, self._onnx)
        check_names(self._model, self._labels, self._onnx.external_data)
        self._others = self._onnx.external_data
        return self._others

    def _verify_models(self, files: Files) -> None:
        """Check all ONNX files below a prefix that are on this machine."""
        for name in filter(is_model, files):
            onnx = self._read_model(files[name])
            self._check_compatibility(files[name], onnx)
            for location in onnx.external_data:
                if str(PurePosixPath(name).parent / location) not in self._others:
                    raise NotFoundError(
                        "object-missing",
                        f"{files[name].record.uri} keeps weights in {location!r}, but that file is not next to it",
                    )
            if name == self._model:
                self._onnx = onnx

    def _read_model(self, model: LocalFile) -> "OnnxInfo":
        self._progress.step = f"checking {model.record.uri}"
        return read_model(model.path, model.record.uri)

    def _check_compatibility(self, model: LocalFile, onnx: "OnnxInfo") -> None:
        check_compatibility(onnx, model.record.uri, self._settings.max_ir_version, self._settings.max_opset)

    def _resolve_external_data(self, locations: list[str]) -> Versions:
        uris = {location: self._source.resolve_sibling(self._uri, location) for location in locations}
        return {location: self._source.resolve(uri, "") for location, uri in uris.items()}

    def _verify_all(self, files: Files) -> None:
        """Check the signature and the identity of all files on this machine."""
        self._check_signed(files)
        self._progress.model = self._identity(files) or ""

    def _check_signed(self, files: Files) -> None:
        if self._signed:
            for name, file in files.items():
                self._signed.check(self._signed_names.get(name, name), file.record.uri, file.record.sha256)

    def _identity(self, files: Files) -> str | None:
        """Return the identity, checked against `MODEL_SHA256`; None if one of its files is not on this machine."""
        names = [self._model, *self._others]
        if not files.keys() >= set(names):
            return None
        model, *external_data = (files[name].record for name in names)
        return check_identity(model, external_data, self._settings.model_sha256)

    def _require_unchanged(self, versions: Versions) -> None:
        """Resolve all files again: those resolved later could belong to a later upload than the first ones.

        Raises:
            ReplacedError: a file has changed.
        """
        locations = [name for name in versions if name not in (self._model, self._labels)]
        now = self._resolve() | ({} if self._is_prefix else self._resolve_external_data(locations))
        for name, found in (now | versions).items():
            if name not in versions or now.get(name) != found:
                raise ReplacedError(
                    "object-replaced", f"{found.uri} was overwritten while the model was loaded: load it again"
                )

    def _publish(self, target: Staging, files: Files) -> None:
        """Publish the files with their receipt, unless exactly these files are already published."""
        records = [file.record for file in files.values()]
        new = self._receipt(files)
        current = target.current_receipt(records)
        in_place = current is not None and (current.onnx, current.signature) == (new.onnx, new.signature)
        if not in_place:
            self._progress.step = "publishing"
            target.publish(new)
        self._progress.done(current if current and in_place else new, in_place=in_place)

    def _receipt(self, files: Files) -> Receipt:
        labels = files.get(self._labels)
        return Receipt(
            model=files[self._model].record,
            labels=labels.record if labels else None,
            external_data=tuple(file.record for name, file in files.items() if name not in (self._model, self._labels)),
            onnx=self._onnx and msgspec.structs.replace(self._onnx, external_data=()),
            signature=self._signed.record if self._signed else None,
            started=self._deadline.started,
            seconds=round(self._deadline.elapsed(), 3),
            attempts=1 + self._progress.retries,
            loader_version=__version__,
        )

    def _report(self, target: Staging, versions: Versions, files: Files) -> None:
        """Report what a load would publish."""
        in_place = [file.record for file in files.values() if file.in_place]
        target.require_space({name: found for name, found in versions.items() if not _is_in_place(files, name)})
        self._progress.would_load(
            Plan(
                artifacts=tuple(self._planned(name, found, files) for name, found in versions.items()),
                all_known=self._is_prefix or self._model in files,
                in_place=len(in_place) == len(versions) and target.is_published(in_place),
                bytes_free=target.free(),
                credentials=self._source.credentials,
                identity=self._identity(files),
                onnx=self._onnx,
                signed_by=self._signed.record.key if self._signed else None,
            )
        )

    def _planned(self, name: str, found: ObjectVersion, files: Files) -> PlannedFile:
        model, labels = self._paths
        return PlannedFile(
            uri=found.uri,
            version=found.version,
            size=found.size,
            checksums=found.checksums,
            sha256=files[name].record.sha256 if name in files else None,
            target=str(labels if name == labels.name else model.parent / name),
            in_place=_is_in_place(files, name),
        )


def _is_in_place(files: Files, name: str) -> bool:
    return name in files and files[name].in_place


def _record(name: str, found: ObjectVersion, sha256: str) -> FileRecord:
    return FileRecord(
        name=name,
        uri=found.uri,
        version=found.version,
        size=found.size,
        sha256=sha256,
        checksums=dict(found.checksums),
    )
