"""The README, done as it says."""

import contextlib
import doctest
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from loader.settings import Settings as LoaderSettings
from model_server.settings import Settings as ServiceSettings
from tests.support.classifiers import classifier, save
from tests.support.clone import make_clone, newcomers_environment, typed
from tests.support.processes import ROOT, Server, free_port, is_ready, until

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CONSOLE = [block for language, block in BLOCKS if language == "console"]
URL = "http://127.0.0.1:3000"


def commands(block: str) -> list[tuple[str, str]]:
    """Return each command of a console block with the output below it."""
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)


CURLS = [pair for block in CONSOLE for pair in commands(block) if pair[0].startswith("curl")]


def rounded(value: object) -> object:
    """Return the value with its floats rounded: their last digits differ between processors."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 5))


@pytest.mark.parametrize(("command", "output"), CURLS, ids=[command for command, _ in CURLS])
def test_curl(iris: Server, command: str, output: str) -> None:
    run = subprocess.run(
        ["bash", "-c", command.replace(URL, iris.url.rstrip("/"))],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    assert rounded(json.loads(run.stdout)) == rounded(json.loads(output))


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python(iris: Server, block: str, tmp_path: Path) -> None:
    script = tmp_path / "example.txt"
    script.write_text(block.replace(URL, iris.url.rstrip("/")))
    run = subprocess.run(
        [sys.executable, "-m", "doctest", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert doctest.DocTestParser().get_examples(block)
    assert run.returncode == 0, run.stdout


@contextlib.contextmanager
def following(commands_: list[str], clone: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """Type the commands into a shell in the clone, the last of which serves, and press Ctrl-C in the end."""
    port = free_port()
    environment = {"PORT": str(port), "BENTOML_PORT": str(port), "BENTOML_HOST": "127.0.0.1"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        with typed("\n".join(commands_), clone, newcomers_environment(environment)) as (process, log):
            until(partial(is_ready, process, client, log), 240)
            yield client, log
        with pytest.raises(httpx.ConnectError):
            client.get("/readyz")


def test_newcomer(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    clone = make_clone(tmp_path / "clone")
    first, own, plain = [block for block in map(commands, CONSOLE) if block[-1][0] in ("make serve", "bentoml serve")]
    with following([command for command, _ in first], clone) as (client, log):
        assert client.get("/health").json() == {"health": "ok"}
        shown = log.read_text()
        for line in first[0][1].splitlines():
            pattern = re.escape(line.replace(URL, str(client.base_url))).replace("…", ".*")
            assert re.search(pattern, shown), line
    (clone / "pets").mkdir()  # "with your model at, say, pets/model.onnx"
    save(classifier(classes=2, row_shape=(7,)), clone / "pets", [])
    for block in (own, plain):
        with following([command for command, _ in block], clone) as (client, _):
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


def test_check() -> None:
    [(command, output)] = [pair for block in CONSOLE for pair in commands(block) if " -m model_server check" in pair[0]]
    run = subprocess.run([sys.executable, *command.split()[1:]], capture_output=True, text=True, check=True, cwd=ROOT)
    assert re.fullmatch(re.escape(output).replace("…", ".*"), run.stdout, re.DOTALL), run.stdout


def test_settings_table_is_whole() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_0-9]+)` \| ([a-z, ]+) \|", README, re.MULTILINE))
    fields: dict[str, set[str]] = {}
    for owner, settings in (("loader", LoaderSettings), ("service", ServiceSettings)):
        for name in settings.__struct_fields__:
            fields.setdefault(name.upper(), set()).add(owner)
    assert {name: set(owners.split(", ")) for name, owners in rows.items()} == fields
