"""OCI registries: URIs, manifests and authentication."""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.loader.conftest import Pair, make_labels
from tests.integration.loader.fault_proxy import Answer, fault_proxy
from tests.integration.loader.running import Target, assert_failed
from tests.integration.loader.storages import oci_bytes, web_files
from tests.support.registry import push, registry

SECRET = "a-password-that-no-one-may-see"  # noqa: S105 (it opens nothing)
_HASH = "$2b$04$yBnwmzwQRSvDanF3ln90L.PD7gyZGPjaDfayKfLbdQwpgIMvTKLHu"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
def target(tmp_path: Path, url: str) -> Target:
    return Target(tmp_path / "workdir", {"MODEL_URI": f"{place(url)}:1", "HOME": str(tmp_path)})


def place(url: str) -> str:
    return f"{url.replace('http://', 'oci://')}/models/iris"


def test_the_only_onnx_file_is_the_model(target: Target, url: str, pair: Pair) -> None:
    digest = push(url, "models/iris", "1", {"m.onnx": pair[0], "label.json": pair[1]})
    assert target.load().exit_code == 0
    receipt = target.assert_holds(*pair)
    assert (receipt.model.uri, receipt.model.version) == (f"{place(url)}:1#m.onnx", digest)
    assert receipt.model.checksums == {"sha256": hashlib.sha256(pair[0]).hexdigest()}
    push(url, "models/iris", "1", {"m.onnx": pair[1], "label.json": make_labels("other")})
    for settings in ({"model_version": digest}, {"model_uri": f"{place(url)}@{digest}"}):
        assert target.load(**settings).exit_code == 0
        receipt = target.assert_holds(*pair)
        assert [file.version for file in receipt.files] == [digest, digest]


def test_modelpack_annotations_name_files_too(target: Target, url: str, pair: Pair) -> None:
    files = {"m.onnx": pair[0], "label.json": pair[1]}
    push(url, "models/iris", "1", files, annotation="org.cncf.model.filepath")
    assert target.load().exit_code == 0
    target.assert_holds(*pair)


@pytest.mark.parametrize("count", [0, 2])
def test_one_of_several_models_must_be_named(target: Target, url: str, pair: Pair, count: int) -> None:
    push(url, "models/iris", "1", {**{f"{number}.onnx": pair[0] for number in range(count)}, "label.json": pair[1]})
    assert_failed(target.load(), 3, f"has {count} ONNX files")


@pytest.mark.parametrize("name", ["../m.onnx", "/etc/m.onnx", "a/../../m.onnx", "..\\m.onnx", "m\n.onnx"])
def test_names_outside_the_directory_are_refused(target: Target, url: str, pair: Pair, name: str) -> None:
    push(url, "models/iris", "1", {name: pair[0], "label.json": pair[1]})
    assert_failed(target.load(), 5, "points outside its directory")
    target.assert_empty()


def test_archives_are_refused(target: Target, url: str, pair: Pair) -> None:
    files = {"m.onnx": pair[0], "label.json": pair[1]}
    push(url, "models/iris", "1", files, media_type="application/vnd.cncf.model.weight.v1.tar+gzip")
    assert_failed(target.load(), 5, "is an archive or compressed")


@pytest.mark.parametrize(
    "uri", ["oci://host", "oci://host/UPPER:1", "oci://host/a@sha256:1", "oci://host/a:b:c", "oci://ho st/a"]
)
def test_a_malformed_uri_is_a_usage_error(target: Target, uri: str) -> None:
    assert_failed(target.load(model_uri=uri), 2, "oci://")


def write_config(directory: Path, url: str, login: str) -> None:
    auth = base64.b64encode(login.encode()).decode()
    path = directory / ".docker" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"auths": {url.removeprefix("http://"): {"auth": auth}}, "credsStore": "none"}))


def test_basic_authentication(tmp_path: Path, pair: Pair) -> None:
    users = tmp_path / "htpasswd"
    users.write_text(f"me:{_HASH}\n")
    with registry(tmp_path, users) as url:
        push(url, "models/iris", "1", {"m.onnx": pair[0], "label.json": pair[1]}, auth=("me", SECRET))
        target = Target(tmp_path / "workdir", {"MODEL_URI": f"{place(url)}:1", "HOME": str(tmp_path)})
        assert_failed(target.load(), 4, "config.json")
        write_config(tmp_path, url, "me:wrong")
        assert_failed(target.load(), 4, "401", "config.json")
        write_config(tmp_path, url, f"me:{SECRET}")
        run = target.load()
        assert run.exit_code == 0, run
        target.assert_holds(*pair)
        assert SECRET not in run.output + run.error
        (tmp_path / ".docker" / "config.json").write_text('{"auths": 1}')
        assert_failed(target.load(), 4, "config.json")


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_token_authentication(tmp_path: Path, url: str, pair: Pair, field: str) -> None:
    push(url, "models/iris", "1", {"m.onnx": pair[0], "label.json": pair[1]})
    with web_files() as tokens, fault_proxy(url, oci_bytes) as proxy:
        realm = f"http://127.0.0.1:{tokens.server_address[1]}/token"
        tokens.objects["/token"] = json.dumps({field: SECRET}).encode()
        challenge = f'Bearer realm="{realm}",service="tests",scope="repository:models/iris:pull"'

        def guarded(answer: Answer) -> None:
            if answer.handler.headers.get("Authorization") == f"Bearer {SECRET}":
                answer.whole()
            else:
                answer.refuse(401, WWW_Authenticate=challenge)

        proxy.on("metadata", itertools.repeat(guarded))
        proxy.on("bytes", itertools.repeat(guarded))
        target = Target(tmp_path / "workdir", {"MODEL_URI": f"{place(proxy.url)}:1", "HOME": str(tmp_path)})
        run = target.load()
        assert run.exit_code == 0, run
        target.assert_holds(*pair)
        assert SECRET not in run.output + run.error
        tokens.objects.clear()
        assert_failed(target.load(), 4, "issued no token (404")


def test_a_manifest_other_than_the_pinned_one_is_refused(tmp_path: Path, url: str, pair: Pair) -> None:
    digest = push(url, "models/iris", "1", {"m.onnx": pair[0], "label.json": pair[1]})
    with fault_proxy(url, oci_bytes) as proxy:

        def other(answer: Answer) -> None:
            answer.content = answer.content.replace(b"m.onnx", b"n.onnx")
            answer.whole()

        proxy.on("metadata", itertools.repeat(other))
        target = Target(tmp_path / "workdir", {"MODEL_URI": f"{place(proxy.url)}@{digest}", "HOME": str(tmp_path)})
        assert_failed(target.load(), 5, "the manifest has the digest", "3 times in a row")
