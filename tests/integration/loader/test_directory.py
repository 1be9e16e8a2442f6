"""Loads into a directory, as KServe calls the loader: of one file, and of all files below a prefix."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loader.__main__ import main
from tests.integration.loader.conftest import make_labels, make_model, with_external_data
from tests.integration.loader.fault_proxy import Answer, fault_proxy
from tests.integration.loader.storages import S3, Gcs, gcs_bytes, moto_server, s3_bytes
from tests.support.fake_gcs import fake_gcs_server
from tests.support.signing import Key, sign
from volume.identity import model_identity
from volume.receipt import Receipt

LABELS = make_labels("a", "b")
# A repository of Triton with two versions of a model, one with external data.
REPOSITORY = {
    "pets/config.pbtxt": b'name: "pets"',
    "pets/1/model.onnx": with_external_data("weights/w.bin"),
    "pets/1/weights/w.bin": bytes(2000),
    "pets/2/model.onnx": make_model(100),
    "pets/labels.txt": b"cat\ndog",
}
IGNORED = {".git/config": b"", "pets/.DS_Store": b"", "receipt.json": b"{}", "pets/3/.keep": b""}


class Storage(ABC):
    """Files by name at one kind of source."""

    @abstractmethod
    def uri(self, name: str) -> str:
        """Return the URI of a file or a prefix."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Write a file."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file."""


class Local(Storage):
    """A directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def uri(self, name: str) -> str:
        return f"{self._root}/{name}"

    def put(self, name: str, content: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def delete(self, name: str) -> None:
        (self._root / name).unlink()


@pytest.fixture(scope="module", params=["gs", "s3", "local"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The kind of storage and the URL of its server."""
    match request.param:
        case "gs":
            with fake_gcs_server(tmp_path_factory.mktemp("gs")) as url:
                yield "gs", url
        case "s3":
            with moto_server() as url:
                yield "s3", url
        case _:
            yield "local", ""


@pytest.fixture
def storage(kind: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage | Gcs | S3]:
    """An empty storage, whose settings are in the environment."""
    name, url = kind
    if name == "local":
        yield Local(tmp_path / "source")
        return
    with fault_proxy(url, gcs_bytes if name == "gs" else s3_bytes) as proxy:
        made = Gcs(proxy, url) if name == "gs" else S3(proxy, url, versioned=True)
        for variable, value in made.settings.items():
            if variable != "MODEL_URI":
                monkeypatch.setenv(variable, value)
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The directory that exists already, like KServe's mount."""
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


Load = Callable[..., tuple[int, str]]


@pytest.fixture
def load(capsys: pytest.CaptureFixture[str], target: Path) -> Load:
    """Run the loader with a URI, the target and flags; return the exit code and the code and reason of a failure."""

    def run(uri: str, *flags: str) -> tuple[int, str]:
        code = main([uri, str(target), *flags])
        error = capsys.readouterr().err
        failure = json.loads(error.splitlines()[-1]) if error else {"code": "", "error": ""}
        return code, f"{failure['code']}: {failure['error']}"

    return run


def contents(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory except the receipt; they must be plain files."""
    paths = [path for path in directory.rglob("*") if not path.is_dir()]
    assert not [path for path in (*paths, directory) if path.is_symlink()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths if path.name != "receipt.json"}


def receipt_in(directory: Path) -> Receipt:
    receipt = Receipt.read(directory)
    assert receipt
    for record in receipt.files:
        record.check(directory / record.name)
    return receipt


def test_one_file_is_loaded_under_its_name(storage: Storage, load: Load, target: Path) -> None:
    storage.put("iris/1/iris v1.onnx", with_external_data("w.bin"))
    storage.put("iris/1/w.bin", bytes(2000))
    storage.put("iris/1/other.txt", b"not loaded")
    assert load(storage.uri("iris/1/iris v1.onnx")) == (0, ": ")
    assert contents(target).keys() == {"iris v1.onnx", "w.bin"}
    storage.put("iris/1/label.json", LABELS)
    assert load(storage.uri("iris/1/iris v1.onnx")) == (0, ": ")
    assert contents(target).keys() == {"iris v1.onnx", "w.bin", "label.json"}
    receipt = receipt_in(target)
    before = receipt.encode()
    assert load(storage.uri("iris/1/iris v1.onnx"), "--dry-run") == (0, ": ")
    pinned = f"{storage.uri('iris/1/iris v1.onnx')}#sha256={receipt.identity}"
    assert load(pinned) == (0, ": ")
    assert receipt_in(target).encode() == before
    code, reason = load(pinned.replace(receipt.identity, "0" * 64))
    assert (code, reason.partition(":")[0]) == (5, "digest-mismatch")
    assert receipt_in(target).encode() == before


def test_all_files_below_a_prefix_are_loaded(storage: Storage, load: Load, target: Path) -> None:
    slash = "/" if isinstance(storage, S3) else ""
    for name, content in (REPOSITORY | IGNORED).items():
        storage.put(f"triton/{name}", content)
    storage.put("triton-2/other.onnx", make_model(1))
    assert load(storage.uri(f"triton{slash}")) == (0, ": ")
    assert contents(target) == REPOSITORY
    receipt = receipt_in(target)
    assert receipt.model.name == "pets/1/model.onnx"
    others = {record.name: record.sha256 for record in receipt.external_data}
    assert others.keys() == REPOSITORY.keys() - {receipt.model.name}
    assert receipt.identity == model_identity(receipt.model.sha256, others)
    before = receipt.encode()
    assert load(f"{storage.uri(f'triton{slash}')}#sha256={receipt.identity}") == (0, ": ")
    assert receipt_in(target).encode() == before

    for name in ("pets/1/model.onnx", "pets/1/weights/w.bin"):
        storage.delete(f"triton/{name}")
    storage.put("triton/label.json", LABELS)
    assert load(storage.uri(f"triton{slash}"), "--model_sha256", receipt.identity)[1].startswith("digest-mismatch")
    assert receipt_in(target).encode() == before
    assert load(storage.uri(f"triton{slash}")) == (0, ": ")
    left = {name: content for name, content in REPOSITORY.items() if not name.startswith("pets/1/")}
    assert contents(target) == left | {"label.json": LABELS}
    assert not (target / "pets" / "1").exists()
    assert receipt_in(target).labels


@pytest.mark.parametrize(
    ("change", "flags", "finding"),
    [
        ({"pets/2/model.onnx": b"damaged"}, (), "model-invalid"),
        ({"label.json": b"{}"}, (), "labels-invalid"),
        ({"pets/1/weights/w.bin": None}, (), "object-missing"),
        ({}, ("--max-files", "4"), "prefix-too-large"),
        ({}, ("--max-total-bytes", "2000"), "prefix-too-large"),
        ({}, ("--max-opset", "1"), "model-too-new"),
        ({}, ("--model-version", "1"), "settings-invalid"),
        ({}, ("--label-sha256", "0" * 64), "object-missing"),
        ({name: None for name in REPOSITORY if name.endswith(".onnx")}, (), "object-missing"),
    ],
    ids=[
        "a damaged model",
        "bad labels",
        "no weights",
        "files",
        "bytes",
        "too new",
        "a version",
        "pinned labels",
        "no model",
    ],
)
def test_nothing_is_published_if_one_file_is_wrong(  # noqa: PLR0917 (most are parameters)
    load: Load, target: Path, tmp_path: Path, change: dict[str, bytes | None], flags: tuple[str, ...], finding: str
) -> None:
    source = Local(tmp_path / "source")
    for name, content in (REPOSITORY | change).items():
        if content is not None:
            source.put(name, content)
    assert load(source.uri(""), *flags)[1].startswith(finding)
    assert list(target.iterdir()) == []


def test_a_link_to_a_directory_is_refused(load: Load, tmp_path: Path) -> None:
    source = Local(tmp_path / "source")
    source.put("model.onnx", make_model(1))
    (tmp_path / "source" / "link").symlink_to("/etc")
    assert load(source.uri(""))[1].startswith("file-irregular")


def test_nothing_below_the_prefix(storage: Storage, load: Load, target: Path) -> None:
    storage.put("iris/readme.txt", b"")
    for name in ("none", "iris/none/"):
        code, reason = load(storage.uri(name))
        assert (code, "missing" in reason.partition(":")[0]) == (3, True), reason
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("uri", ["https://127.0.0.1:1/models/", "oci://127.0.0.1:1/models:1#pets/"])
def test_other_sources_cannot_list(load: Load, uri: str) -> None:
    code, reason = load(uri)
    assert (code, reason.partition(":")[0]) == (2, "prefix-unsupported")
    assert "cannot list the files below" in reason


def cut(answer: Answer) -> None:
    answer.start()
    answer.write(answer.content[: len(answer.content) // 2])
    answer.close()


@pytest.mark.parametrize("kind", ["gs", "s3"], indirect=True)
def test_a_listing_is_retried_and_its_refusal_explained(storage: Gcs | S3, load: Load, target: Path) -> None:
    storage.put("iris/model.onnx", make_model(1))
    storage.proxy.on("metadata", iter([lambda answer: answer.refuse(503), lambda answer: answer.reset(), cut]))
    assert load(storage.uri("iris/")) == (0, ": ")
    assert contents(target).keys() == {"model.onnx"}
    # The failures, the listing, and the one before publication, but no requests of a library's own.
    if isinstance(storage, Gcs):
        assert len([request for request in storage.proxy.requests if "prefix=iris" in request]) == 5
        assert len([request for request in storage.proxy.requests if "projection=noAcl&pretty" in request]) == 0
    storage.proxy.on("metadata", iter([lambda answer: answer.refuse(403)]))
    code, reason = load(storage.uri("iris/"))
    assert (code, reason.partition(":")[0]) == (4, "access-denied")
    assert "storage.objects.list" in reason or "s3:ListBucket" in reason


def test_a_signature_must_list_all_files(load: Load, target: Path, tmp_path: Path) -> None:
    source, key = Local(tmp_path / "source"), Key()
    for name, content in REPOSITORY.items():
        source.put(name, content)
    sign(tmp_path / "source", key)
    (tmp_path / "keys.pem").write_bytes(key.public_pem)
    flags = ("--model_signature_key", str(tmp_path / "keys.pem"))
    assert load(source.uri(""), *flags) == (0, ": ")
    assert contents(target) == REPOSITORY
    source.put("pets/3/model.onnx", make_model(1))
    assert load(source.uri(""), *flags)[1].startswith("file-not-signed")
    shutil.rmtree(tmp_path / "source/pets/3")
    source.put("pets/labels.txt", b"dog\ncat")
    assert load(source.uri(""), *flags)[1].startswith("signed-file-mismatch")
    assert contents(target) == REPOSITORY


def test_a_load_is_repeated_after_its_model_is_gone(load: Load, target: Path, tmp_path: Path) -> None:
    source = Local(tmp_path / "source")
    for name, content in REPOSITORY.items():
        source.put(name, content)
    assert load(source.uri("")) == (0, ": ")
    (target / "pets/2/model.onnx").unlink()
    assert load(source.uri("")) == (0, ": ")
    assert contents(target) == REPOSITORY


@pytest.mark.parametrize("content", [make_model(100), make_model(1)], ids=["same", "another"])
def test_a_load_with_links_is_replaced_by_plain_files(
    load: Load, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    source = Local(tmp_path / "source")
    source.put("m.onnx", make_model(100))
    source.put("label.json", LABELS)
    with monkeypatch.context() as patched:
        patched.setenv("MODEL_FILEPATH", str(target / "m.onnx"))
        patched.setenv("LABEL_FILEPATH", str(target / "label.json"))
        assert main(["--model_uri", source.uri("m.onnx")]) == 0
    source.put("m.onnx", content)
    assert load(source.uri("m.onnx")) == (0, ": ")
    assert contents(target) == {"m.onnx": content, "label.json": LABELS}
    assert not [path for path in target.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("arguments", "variables", "finding"),
    [
        (["https://h/m.onnx?sig=SECRET"], {}, "there is only one argument"),
        (["gs://b/m.onnx", "/m", "SECRET", "--m=SECRET"], {}, "unrecognized arguments: … --m"),
        (["gs://b/m.onnx", "/m"], {"MODEL_URI": "gs://b/n.onnx"}, "MODEL_URI is set, but the arguments"),
        (["gs://b/m.onnx", "/m"], {"MODEL_FILEPATH": "/m/n.onnx"}, "MODEL_DIRECTORY is set, but so is MODEL_FILEPATH"),
        ([f"gs://b/m.onnx#sha256={'0' * 64}", "/m"], {"MODEL_SHA256": "1" * 64}, "MODEL_SHA256 is set, but the"),
        (["gs://b/receipt.json", "/m"], {}, "cannot be a target"),
        (["gs://b/..", "/m"], {}, "cannot be a target"),
        (["https://host/..%2F..%2Fm.onnx", "/m"], {}, "expected a plain file name"),
        (["file:///a/..%2fm.onnx", "/m"], {}, "expected a plain file name"),
        (["https://host/m%0A.onnx", "/m"], {}, "expected a plain file name"),
    ],
)
def test_contradictory_arguments_are_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variables: dict[str, str],
    finding: str,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert finding in error
    assert "SECRET" not in error
