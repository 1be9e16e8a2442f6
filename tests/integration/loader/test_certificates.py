"""Private certificate authorities, with the sources whose libraries bundle their own certificates."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.loader.conftest import BUCKET, MODEL, Pair
from tests.integration.loader.fault_proxy import FaultProxy, fault_proxy
from tests.integration.loader.fault_server import FaultServer
from tests.integration.loader.running import Target, assert_failed
from tests.integration.loader.storages import LABELS, S3, gcs_bytes, moto_server, s3_bytes
from tests.support.certificates import make_authority


@pytest.fixture
def secure(tmp_path: Path, server: FaultServer) -> Iterator[tuple[FaultProxy, Path]]:
    """The fault server with TLS, and the file of its certificate authority."""
    authority, context = make_authority(tmp_path)
    with fault_proxy(server.url, gcs_bytes, context) as proxy:
        yield proxy, authority


def test_google_cloud_storage(target: Target, secure: tuple[FaultProxy, Path], pair: Pair) -> None:
    proxy, authority = secure
    target.settings = {
        "GCS_BUCKET": BUCKET,
        "GCS_MODEL_BLOB": MODEL,
        "GCS_ENDPOINT": proxy.url,
        "GCS_ANONYMOUS": "true",
    }
    assert_failed(target.load(), 8, "certificate", proxy.url)
    assert target.load(ssl_cert_file=authority).exit_code == 0
    target.assert_holds(*pair)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_CA_BUNDLE"])
def test_s3(tmp_path: Path, pair: Pair, variable: str) -> None:
    authority, context = make_authority(tmp_path)
    with moto_server() as url, fault_proxy(url, s3_bytes, context) as proxy:
        storage = S3(proxy, url, versioned=True)
        storage.put(MODEL, pair[0])
        storage.put(LABELS, pair[1])
        target = Target(tmp_path / "workdir", {**storage.settings, "HOME": str(tmp_path)})
        assert_failed(target.load(), 8, "certificate", proxy.url)
        assert target.load(**{variable: authority}).exit_code == 0
        target.assert_holds(*pair)
        assert_failed(target.load(**{variable: authority}, model_uri="s3://other/m"), 3, "404")
