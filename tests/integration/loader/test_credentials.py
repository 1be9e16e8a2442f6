"""Credentials for Google Cloud Storage."""

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.integration.loader.conftest import Pair
from tests.integration.loader.fault_server import TOKEN, FaultServer
from tests.integration.loader.running import UNREACHABLE, Run, Target, assert_failed


@pytest.fixture
def target(target: Target, server: FaultServer, tmp_path: Path) -> Target:
    """A target whose loads need credentials and find none."""
    target.settings |= {
        "STORAGE_EMULATOR_HOST": "",
        "GCS_ENDPOINT": server.url,
        "HOME": str(tmp_path),
        "NO_GCE_CHECK": "true",
    }
    return target


@pytest.fixture
def key_file(tmp_path: Path, server: FaultServer) -> Path:
    """A service account's key file; the fault server issues its tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = tmp_path / "key.json"
    content = {
        "type": "service_account",
        "client_email": "loader@example.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "token_uri": f"{server.url}/token",
    }
    path.write_text(json.dumps(content))
    return path


def test_a_key_file_is_used_and_its_token_never_shown(
    target: Target, server: FaultServer, pair: Pair, key_file: Path
) -> None:
    run = target.load(google_application_credentials=key_file)
    assert (run.exit_code, run.error) == (0, "")
    target.assert_holds(*pair)
    assert server.authorizations == {f"Bearer {TOKEN}"}
    assert TOKEN not in run.output


def test_a_dry_run_names_the_kind_of_credentials(target: Target, key_file: Path) -> None:
    run = target.load(google_application_credentials=key_file, dry_run="true")
    [said] = run.events
    assert said["credentials"] == "google.oauth2.service_account of loader@example.iam.gserviceaccount.com"
    assert TOKEN not in run.output
    assert_failed(target.load(dry_run="true"), 4, "GOOGLE_APPLICATION_CREDENTIALS")
    target.assert_empty()


def test_the_metadata_server_is_used_last(target: Target, server: FaultServer, pair: Pair) -> None:
    host = server.url.removeprefix("http://")
    run = target.load(no_gce_check="", gce_metadata_host=host, gce_metadata_ip=host)
    assert (run.exit_code, run.error) == (0, "")
    target.assert_holds(*pair)
    assert server.authorizations == {f"Bearer {TOKEN}"}


def test_a_missing_dependency_of_google_auth_is_named(target: Target, server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "requests.py").write_text("raise ModuleNotFoundError(\"No module named 'requests'\")")
    with target.start(pythonpath=tmp_path) as process:
        output, error = process.communicate(timeout=30)
    run = Run(process.returncode, output, error)
    assert_failed(run, 1, "gs://", "No module named 'requests'", "loader/requirements.txt")
    assert server.requests == []


def test_without_credentials_no_request_is_sent(target: Target, server: FaultServer) -> None:
    run = target.load()
    assert_failed(run, 4, "GOOGLE_APPLICATION_CREDENTIALS", "GCS_ANONYMOUS=true")
    assert server.requests == []


def test_anonymous_loads_require_a_setting(target: Target, server: FaultServer, pair: Pair) -> None:
    assert target.load(gcs_anonymous="true").exit_code == 0
    target.assert_holds(*pair)
    assert server.authorizations == {""}


def test_an_invalid_key_file_is_named(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("{}")
    assert_failed(target.load(google_application_credentials=path), 4, str(path))


@pytest.mark.parametrize("content", ["[]", '"key"', "[" * 100_000, '{"type": []}', '{"type": "service_account"}'])
def test_a_key_file_of_other_json_is_named(target: Target, tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(content)
    assert_failed(target.load(google_application_credentials=path), 4, str(path))


def test_an_unreadable_key_file_is_named(target: Target, tmp_path: Path) -> None:
    assert_failed(target.load(google_application_credentials=tmp_path), 4, f"{tmp_path} (Is a directory)")
    path = "/proc/self/mem"  # not even root can read it from the start
    assert_failed(target.load(google_application_credentials=path), 4, path, "GOOGLE_APPLICATION_CREDENTIALS")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_file_without_permission_is_named(target: Target, key_file: Path) -> None:
    key_file.chmod(0)
    assert_failed(target.load(google_application_credentials=key_file), 4, f"{key_file} (Permission denied)")


def test_refused_credentials_are_not_retried(target: Target, server: FaultServer, key_file: Path) -> None:
    answer = json.dumps({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}).encode()
    server.on("token", iter([lambda exchange: exchange.status(400, answer)]))
    run = target.load(google_application_credentials=key_file)
    assert_failed(run, 4, "Invalid JWT Signature")
    assert run.named("retry") == []


def test_a_failing_token_server_is_retried_until_the_deadline(
    target: Target, server: FaultServer, key_file: Path
) -> None:
    server.shutdown()
    server.server_close()
    run = target.load(google_application_credentials=key_file, load_timeout_seconds=3)
    assert_failed(run, UNREACHABLE)
