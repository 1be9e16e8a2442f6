"""Web servers: redirects, tokens and secret queries."""

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.loader.conftest import Pair
from tests.integration.loader.fault_proxy import Answer, Fault, FaultProxy, fault_proxy
from tests.integration.loader.running import UNREACHABLE, Target, assert_failed
from tests.integration.loader.storages import LABELS, MODEL, Https, WebFiles, https_bytes, web_files
from tests.support.certificates import make_authority

SECRET = "a-signature-that-no-one-may-see"  # noqa: S105 (it opens nothing)


def own_address() -> str:
    """Return an address of this machine that is not a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


class Web:
    """A file server with TLS, and a target for loads from it."""

    def __init__(self, directory: Path, files: WebFiles, proxy: FaultProxy, authority: Path, pair: Pair) -> None:
        self.proxy = proxy
        self.storage = Https(proxy, files, authority)
        self.storage.put(MODEL, pair[0])
        self.storage.put(LABELS, pair[1])
        settings = {**self.storage.settings, **self.storage.pins(*pair)}
        self.target = Target(directory / "workdir", {name.upper(): value for name, value in settings.items()})


@contextmanager
def serving(directory: Path, pair: Pair) -> Iterator[Web]:
    authority, context = make_authority(directory, own_address())
    with web_files() as files:
        url = f"http://127.0.0.1:{files.server_address[1]}"
        with fault_proxy(url, https_bytes, context) as proxy:
            yield Web(directory, files, proxy, authority, pair)


@pytest.fixture
def web(tmp_path: Path, pair: Pair) -> Iterator[Web]:
    with serving(tmp_path, pair) as web:
        yield web


def to(url: str, code: int = 302) -> Fault:
    return lambda answer: answer.refuse(code, Location=url)


def refuse(code: int) -> Fault:
    return lambda answer: answer.refuse(code)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirection_on_the_same_host_is_followed(web: Web, pair: Pair, code: int) -> None:
    web.storage.put("elsewhere/model.onnx", pair[0])
    path = web.storage.uri("elsewhere/model.onnx").partition(web.proxy.address)[2]
    web.proxy.on("metadata", iter([to(path, code)]))
    assert web.target.load().exit_code == 0
    web.target.assert_holds(*pair)


def test_a_redirection_to_another_host_is_followed_without_the_token(web: Web) -> None:
    if (address := own_address()) == "127.0.0.1":
        pytest.skip("this machine has no other address")
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
    elsewhere = FaultProxy(f"http://{web.proxy.upstream}", https_bytes, web.proxy.tls, address=(address, port))
    with elsewhere.running():
        path = web.storage.uri(MODEL).partition(web.proxy.address)[2]
        web.proxy.on("metadata", itertools.repeat(to(f"https://{address}:{port}{path}?signature={SECRET}"), 1))
        run = web.target.load(https_token=SECRET)
    assert run.exit_code == 0, run
    assert [head for head in web.proxy.heads if SECRET in head]
    assert elsewhere.heads
    assert not [head for head in elsewhere.heads if "Authorization" in head]
    assert SECRET not in run.output + run.error


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org/model.onnx", "redirected to http://, expected https://"),
        ("file:///etc/passwd", "redirected to file://"),
        ("https://user:password@example.org/", "expected https:// and a host"),
        ("https://127.0.0.1:1/model.onnx", "redirected to 127.0.0.1, an address of this machine"),
        ("https://localhost:1/model.onnx", "redirected to localhost, an address of this machine"),
        ("https://[::1]/model.onnx", "redirected to ::1, an address"),
        ("https://[::ffff:127.0.0.1]/", "an address of this machine"),
        ("https://169.254.169.254/latest/meta-data", "redirected to 169.254.169.254, an address"),
        ("https://0.0.0.0/", "an address of this machine"),
        ("https://2130706433/", "an address of this machine"),
    ],
)
def test_a_redirection_to_a_local_address_or_http_is_refused(web: Web, url: str, words: str) -> None:
    web.proxy.on("metadata", itertools.repeat(to(url)))
    run = web.target.load()
    assert_failed(run, 1, web.storage.place, words)
    web.target.assert_empty()


def test_a_redirection_loop_is_refused(web: Web) -> None:
    web.proxy.on("metadata", itertools.repeat(to(web.storage.uri(MODEL))))
    assert_failed(web.target.load(), 1, "redirected more than 5 times")


def test_the_query_is_sent_and_never_shown(web: Web, pair: Pair) -> None:
    uri = f"{web.storage.uri(MODEL)}?X-Amz-Signature={SECRET}"
    run = web.target.load(model_uri=uri)
    assert run.exit_code == 0, run
    receipt = web.target.assert_holds(*pair)
    assert receipt.model.uri == web.storage.uri(MODEL)
    assert [request for request in web.proxy.requests if SECRET in request]
    assert SECRET not in run.output + (web.target.directory / "receipt.json").read_text()
    web.storage.delete(MODEL)
    for code in (403, 404, 500):
        web.proxy.on("metadata", itertools.repeat(refuse(code)))
        run = web.target.load(model_uri=uri, load_timeout_seconds=2)
        assert run.exit_code != 0
        assert SECRET not in run.output + run.error


def test_a_token_that_cannot_be_sent_is_not_shown(web: Web) -> None:
    run = web.target.load(https_token=f"{SECRET}\n")
    assert_failed(run, 2, "HTTPS_TOKEN")
    assert SECRET not in run.output + run.error


def test_two_files_cannot_differ_only_in_the_query(web: Web) -> None:
    uri = web.storage.uri(MODEL)
    run = web.target.load(model_uri=f"{uri}?name={SECRET}-1", label_uri=f"{uri}?name={SECRET}-2")
    assert_failed(run, 2, uri, "queries")
    assert SECRET not in run.output + run.error


def test_an_untrusted_certificate_is_reported(web: Web) -> None:
    assert_failed(web.target.load(ssl_cert_file=""), 8, "certificate", web.proxy.url)


def test_compressed_answers_are_refused(web: Web) -> None:
    def compressed(answer: Answer) -> None:
        answer.start(Content_Encoding="gzip")
        answer.write(answer.content)

    web.proxy.on("metadata", itertools.repeat(compressed))
    assert_failed(web.target.load(), 5, "Content-Encoding gzip")


def test_a_name_that_does_not_resolve_is_unreachable(web: Web) -> None:
    run = web.target.load(model_uri="https://web.invalid/m.onnx", load_timeout_seconds=2)
    assert_failed(run, UNREACHABLE)
