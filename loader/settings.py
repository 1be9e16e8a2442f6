"""The settings of the loader."""

import re
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import unquote

from msgspec import Meta

from volume.onnx_file import parse_opsets
from volume.receipt import RECEIPT
from volume.settings import VolumeSettings

SHIPPED_MODEL = Path(__file__).parent.parent / "models" / "iris_svc.onnx"
TERMINATION_LOG = Path("/dev/termination-log")

SCHEMES = ("file", "gs", "https", "oci", "s3")
_DAY = 86_400
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?/*")
_MAX_PORT = 65_535


# Settings that cannot be combined with MODEL_URI: each names a source or a version.
_OTHER_SOURCE_SETTINGS = (
    "gcs_bucket", "gcs_model_blob", "gcs_label_blob", "gcs_model_generation", "gcs_label_generation", "use_local_model",
)  # fmt: skip
_DEFAULT_PATHS = VolumeSettings().model_filepath, VolumeSettings().label_filepath
_MODEL_URI_OPTIONS = ("label_uri", "model_version", "label_version")


class FileReference(NamedTuple):
    """A file to load: its URI and its version; an empty version is the latest."""

    uri: str
    version: str


class Settings(VolumeSettings, frozen=True, kw_only=True):
    """The loader's settings: each is an environment variable in uppercase and a flag in lowercase."""

    model_uri: Annotated[
        str,
        Meta(description="the model to load: a path, or a gs://, s3://, https://, oci:// or file:// URI"),
    ] = ""
    model_directory: Annotated[
        Path | None,
        Meta(
            description="load into this directory, as plain files with their names at the source; all files below a "
            "URI that is a prefix or a directory"
        ),
    ] = None
    max_files: Annotated[int, Meta(gt=0, description="the maximum number of files below a prefix")] = 1000
    max_total_bytes: Annotated[
        int, Meta(gt=0, description="the maximum size of all files below a prefix together, in bytes")
    ] = 64 << 30
    label_uri: Annotated[str, Meta(description="its label file (default: label.json next to the model)")] = ""
    model_version: Annotated[
        str, Meta(description="load only this version of MODEL_URI, in the form that a dry run shows")
    ] = ""
    label_version: Annotated[str, Meta(description="load only this version of the label file")] = ""
    gcs_bucket: Annotated[str, Meta(description="the Google Cloud Storage bucket to load from")] = ""
    gcs_model_blob: Annotated[str, Meta(description="the name of the model's object in the bucket")] = ""
    gcs_label_blob: Annotated[
        str, Meta(description="the name of the label file's object (default: label.json next to the model's)")
    ] = ""
    gcs_model_generation: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="load only this generation of the model")
    ] = None
    gcs_label_generation: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="load only this generation of the label file")
    ] = None
    gcs_anonymous: Annotated[bool, Meta(description="send no credentials, for a public bucket")] = False
    gcs_endpoint: Annotated[str, Meta(description="the Cloud Storage endpoint, e.g. for Private Service Connect")] = (
        "https://storage.googleapis.com"
    )
    storage_emulator_host: Annotated[
        str, Meta(description="an emulator to load from instead of Google, without credentials")
    ] = ""
    use_local_model: Annotated[bool, Meta(description="copy a local model instead of one from a bucket")] = False
    local_model_filepath: Annotated[Path, Meta(description="the local model to copy")] = SHIPPED_MODEL
    local_label_filepath: Annotated[
        Path | None, Meta(description="its label file (default: label.json next to the local model)")
    ] = None
    s3_anonymous: Annotated[bool, Meta(description="send no credentials to S3, for a public bucket")] = False
    https_token: Annotated[str, Meta(description="bearer token for the host of an https:// URL, e.g. Hugging Face")] = (
        ""
    )
    model_sha256: Annotated[
        str, Meta(pattern="^([0-9a-fA-F]{64})?$", description="publish only a model with this sha256")
    ] = ""
    label_sha256: Annotated[
        str, Meta(pattern="^([0-9a-fA-F]{64})?$", description="publish only a label file with this sha256")
    ] = ""
    model_signature_key: Annotated[
        Path | None, Meta(description="PEM file of public keys, one of which must have signed the model")
    ] = None
    model_signature_certificates: Annotated[
        Path | None, Meta(description="PEM file of root certificates, to which the signer's certificate must chain")
    ] = None
    model_signature: Annotated[
        str, Meta(description="the model's signature, like MODEL_URI (default: model.sig next to the model)")
    ] = ""
    max_ir_version: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="refuse a model with a later ONNX IR version")
    ] = None
    max_opset: Annotated[
        str, Meta(description="refuse a model with later operator sets than these, such as 28,ai.onnx.ml:5")
    ] = ""
    load_timeout_seconds: Annotated[float, Meta(gt=0, le=_DAY, description="time limit of the whole run")] = 30
    stall_timeout_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="a connection without data for this long is closed and retried")
    ] = 10
    download_workers: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        Meta(
            description="number of parallel range requests (default: 1 per 64 MiB, at most 4 and at most the CPU cores)"
        ),
    ] = None
    dry_run: Annotated[bool, Meta(description="report what would be loaded, and write nothing")] = False
    termination_log: Annotated[
        Path, Meta(description="file for the reason for a failure (terminationMessagePath), used if it exists")
    ] = TERMINATION_LOG

    def __post_init__(self) -> None:
        """Check that the settings name a source and are consistent."""
        self._check_source()
        if self.model_directory and (self.model_filepath, self.label_filepath) != _DEFAULT_PATHS:
            raise ValueError(
                "MODEL_DIRECTORY is set, but so is MODEL_FILEPATH or LABEL_FILEPATH: expected only the directory"
            )
        if "/" in self.gcs_bucket:
            raise ValueError(f"GCS_BUCKET is {self.gcs_bucket!r}: expected the bucket's bare name, without gs:// or /")
        if self.model_signature and not self.requires_signature:
            raise ValueError(
                "MODEL_SIGNATURE is set, but neither MODEL_SIGNATURE_KEY nor MODEL_SIGNATURE_CERTIFICATES is: expected "
                "a key or a root to verify the signature with"
            )
        _check_uri("MODEL_SIGNATURE", self.model_signature)
        _check_opset(self.max_opset)
        if not self.https_token.isascii() or any(letter.isspace() for letter in self.https_token):
            raise ValueError("HTTPS_TOKEN contains spaces, line ends or non-ASCII characters: expected only the token")
        _check_endpoint("GCS_ENDPOINT", self.gcs_endpoint)
        if emulator := self.storage_emulator_host:
            _check_endpoint("STORAGE_EMULATOR_HOST", emulator if "://" in emulator else f"http://{emulator}")
        model, labels = self.final_paths
        if model.name == labels.name:
            raise ValueError(
                f"MODEL_FILEPATH and LABEL_FILEPATH must end in different names: both end in {model.name!r}"
            )
        for path in self.final_paths:
            if self.model_directory and (path.parent != self.model_directory or not path.name.isprintable()):
                raise ValueError(f"the model's name is {path.name!r}: expected a plain file name, without / or %2f")
            if path.name == RECEIPT or path.name.startswith(".") or not path.name:
                raise ValueError(f"{path} cannot be a target: {RECEIPT} and names that begin with a dot are reserved")

    @property
    def model(self) -> FileReference:
        """The model's URI and version, from any of the settings."""
        if self.model_uri:
            return FileReference(_as_uri(self.model_uri), self.model_version)
        if self.use_local_model:
            return FileReference(self.local_model_filepath.absolute().as_uri(), "")
        return FileReference(f"gs://{self.gcs_bucket}/{self.gcs_model_blob}", str(self.gcs_model_generation or ""))

    @property
    def labels(self) -> FileReference:
        """The label file's URI and version; the URI is empty for label.json next to the model."""
        if self.model_uri:
            return FileReference(_as_uri(self.label_uri), self.label_version)
        if self.use_local_model:
            return FileReference(self.local_label_filepath.absolute().as_uri() if self.local_label_filepath else "", "")
        uri = f"gs://{self.gcs_bucket}/{self.gcs_label_blob}" if self.gcs_label_blob else ""
        return FileReference(uri, str(self.gcs_label_generation or ""))

    @property
    def final_paths(self) -> tuple[Path, Path]:
        """The final paths of the model and of its label file; below a prefix, the model can have another name."""
        if self.model_directory is None:
            return self.model_filepath, self.label_filepath
        return self.model_directory / (_file_name(self.model.uri) or "model.onnx"), self.model_directory / "label.json"

    @property
    def requires_signature(self) -> bool:
        """Whether the model must be signed."""
        return bool(self.model_signature_key or self.model_signature_certificates)

    @property
    def signature_uri(self) -> str:
        """The URI of the model's signature; empty for model.sig next to the model."""
        return _as_uri(self.model_signature)

    def _check_source(self) -> None:
        others = [name.upper() for name in _OTHER_SOURCE_SETTINGS if getattr(self, name)]
        if self.model_uri:
            if others:
                raise ValueError(f"MODEL_URI is set, but so is {' and '.join(others)}: expected only one source")
            _check_uri("MODEL_URI", self.model_uri)
            _check_uri("LABEL_URI", self.label_uri)
            return
        if alone := [name.upper() for name in _MODEL_URI_OPTIONS if getattr(self, name)]:
            raise ValueError(f"{' and '.join(alone)} cannot be set without MODEL_URI: set it to the model's URI")
        missing = [name.upper() for name in ("gcs_bucket", "gcs_model_blob") if not getattr(self, name)]
        if missing and not self.use_local_model:
            raise ValueError(
                f"no model is named (not set: {', '.join(missing)}): name it with MODEL_URI, or the bucket and the "
                "model's object in it with GCS_BUCKET and GCS_MODEL_BLOB, or copy a local model with "
                "USE_LOCAL_MODEL=true"
            )


def _file_name(uri: str) -> str:
    """Return the file's name in a URI; empty if the URI does not have one."""
    scheme, _, rest = uri.partition("://")
    if scheme == "oci":
        return rest.partition("#")[2].rpartition("/")[2]
    if scheme == "https":
        rest = rest.partition("?")[0]
    name = rest.rpartition("/")[2]
    return unquote(name) if scheme in ("file", "https") else name


def _as_uri(uri: str) -> str:
    return uri if "://" in uri or not uri else Path(uri).absolute().as_uri()


def _check_uri(variable: str, uri: str) -> None:
    """Raise `ValueError` unless the URI is valid; the message quotes only the scheme, as the rest may hold secrets."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return
    if scheme not in SCHEMES:
        raise ValueError(f"{variable} begins with {scheme}://: expected a path, or one of {', '.join(SCHEMES)}")
    if scheme == "file":
        if not rest.startswith("/"):
            raise ValueError(f"{variable} is {uri!r}: expected file:// and an absolute path")
        return
    host, _, path = rest.partition("/")
    if "@" in host:
        raise ValueError(f"{variable} has an @ before the path: expected a URI without user name and password")
    if not host or not path:
        raise ValueError(f"{variable} begins with {scheme}://: expected a name after it, a slash, and the file's path")


def _check_opset(text: str) -> None:
    try:
        parse_opsets(text)
    except ValueError as error:
        raise ValueError(f"MAX_OPSET is {text!r}: {error}") from None


def _check_endpoint(variable: str, url: str) -> None:
    """Raise `ValueError` unless the URL has only a scheme, a host and optionally a port.

    Errors quote the URL, so it must not contain secrets.
    """
    expected = "expected a URL like https://host or http://host:8080"
    if "@" in url:
        raise ValueError(f"{variable} is a URL with an @: {expected}, without user name and password")
    match = _ENDPOINT.fullmatch(url)
    if not match or not 1 <= int(match["port"] or 1) <= _MAX_PORT:
        raise ValueError(f"{variable} is {url!r}: {expected}")
