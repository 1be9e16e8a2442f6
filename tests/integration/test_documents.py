"""The code blocks of the documents, run as a reader would run them."""

import contextlib
import doctest
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.classifiers import classifier, save
from tests.support.clone import make_clone, newcomers_environment, typed
from tests.support.documents import URL, Block, blocks
from tests.support.fake_gcs import fake_gcs_server, storage_client
from tests.support.processes import ROOT, Server, free_port, interpreter, is_ready, until

REPOSITORY = "https://git.example.com/ml/model-load-server"
_SECONDS = 120
_VERSIONS = ("iris/1", "iris/2")

# The blocks of README.ja.md are those of README.md: see tests/unit/docs/test_readme.py.
BLOCKS = [block for block in blocks() if block.document != "README.ja.md"]
CONSOLE = [block for block in BLOCKS if block.info == "console"]
SERVING = [block for block in CONSOLE if block.serves]
REQUESTING = [block for block in CONSOLE if not block.serves]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an emulator with the bucket of the documents, `models`."""
    with fake_gcs_server(tmp_path_factory.mktemp("bucket")) as url:
        bucket = storage_client(url).create_bucket("models")
        for version in _VERSIONS:
            bucket.blob(f"{version}/model.onnx").upload_from_filename(ROOT / "models" / "iris_svc.onnx")
            bucket.blob(f"{version}/label.json").upload_from_filename(ROOT / "models" / "label.json")
        yield url


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone to run the commands in, with the reader's own model of the documents."""
    return with_pets(make_clone(tmp_path_factory.mktemp("clone")), "cat", "dog")


def with_pets(clone: Path, *names: str) -> Path:
    """Add `pets/model.onnx`, the reader's own model, and a label file with these names."""
    (clone / "pets").mkdir()
    save(classifier(classes=2, row_shape=(7,)), clone / "pets", names)
    return clone


def shown(output: str, expected: str) -> bool:
    """Return whether the output matches a document, where `…` stands for anything and the last digits may differ."""
    with contextlib.suppress(ValueError):
        return rounded(output) == rounded(expected)
    return bool(re.fullmatch(re.escape(expected.strip()).replace("…", ".*"), output.strip(), re.DOTALL))


def rounded(document: str) -> object:
    """Return the JSON document with rounded floats, as their last digits differ between processors."""
    return json.loads(document, parse_float=lambda text: round(float(text), 5))


@pytest.mark.parametrize("block", REQUESTING, ids=str)
def test_console(block: Block, iris: Server, bucket: str, clone: Path, tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    script = "".join(f"{command}\necho {mark}$?\n" for command, _ in block.commands).replace(URL, iris.url.rstrip("/"))
    settings = {
        "MODEL_FILEPATH": "workdir/model.onnx",
        "LABEL_FILEPATH": "workdir/label.json",
        "STORAGE_EMULATOR_HOST": bucket,
        "BENTOML_HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(Path(interpreter("serve")).parent), os.environ["PATH"]]),
    }
    run = subprocess.run(
        ["bash", "-c", script],  # noqa: S607
        cwd=clone,
        env=newcomers_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    outputs = re.findall(rf"(.*?){mark}(\d+)\n", run.stdout, re.DOTALL)
    assert len(outputs) == len(block.commands), run.stdout
    for (command, expected), (output, status) in zip(block.commands, outputs, strict=True):
        assert status == "0", f"{command}: {output}"
        assert not expected or shown(output, expected), f"{command}: {output}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.info == "python"], ids=str)
def test_python(block: Block, iris: Server, tmp_path: Path) -> None:
    script = tmp_path / "example.txt"
    script.write_text(block.text.replace(URL, iris.url.rstrip("/")))
    run = subprocess.run(
        [sys.executable, "-m", "doctest", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert doctest.DocTestParser().get_examples(block.text)
    assert run.returncode == 0, run.stdout


@contextlib.contextmanager
def following(block: Block, directory: Path, source: Path) -> Iterator[httpx.Client]:
    """Type the commands of a block, the last of which serves, and check what they print; Ctrl-C ends the server.

    Args:
        block: the commands.
        directory: where to type them.
        source: repository to clone instead of the URL in the documents.
    """
    port = free_port()
    redirection = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{source}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }
    environment = {"PORT": str(port), "BENTOML_PORT": str(port), "BENTOML_HOST": "127.0.0.1", **redirection}
    commands = "\n".join(["set -e", *(command for command, _ in block.commands)])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        with typed(commands.replace("3000", str(port)), directory, newcomers_environment(environment)) as (
            process,
            log,
        ):
            until(partial(is_ready, process, client, log), 240)
            output = log.read_text()
            for line in "".join(expected for _, expected in block.commands).splitlines():
                pattern = re.escape(line.replace(URL, str(client.base_url))).replace("…", ".*")
                assert re.search(pattern, output), line
            yield client
        with pytest.raises(httpx.ConnectError):
            client.get("/readyz")


def test_newcomer(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = make_clone(tmp_path / "source")
    home = tmp_path / "home"
    home.mkdir()
    first, *others = SERVING
    assert first.document == "README.md"
    with following(first, home, source) as client:
        assert client.get("/health").json() == {"health": "ok"}
    clone = with_pets(home / "model-load-server")
    for block in others:
        with following(block, clone, source) as client:
            assert client.get("/label").json() == {"0": "cat", "1": "dog"}
            assert client.get("/metadata").json()["data_shape"] == "(1, 7)"
    status = subprocess.run(
        ["git", "status", "--porcelain"],  # noqa: S607
        cwd=clone,
        capture_output=True,
        text=True,
        check=True,
    )
    assert status.stdout == "?? pets/\n"
