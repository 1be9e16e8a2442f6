"""The loader's settings and their errors."""

import pytest

from loader.settings import Settings
from volume.settings import SettingsError

BUCKET = {"GCS_BUCKET": "b", "GCS_MODEL_BLOB": "m"}


@pytest.mark.parametrize(
    ("environment", "finding"),
    [
        ({}, "not set: GCS_BUCKET, GCS_MODEL_BLOB"),
        ({"GCS_BUCKET": "b"}, "not set: GCS_MODEL_BLOB"),
        ({**BUCKET, "MODEL_URI": "gs://b/m"}, "MODEL_URI is set, but so is GCS_BUCKET and GCS_MODEL_BLOB"),
        ({"USE_LOCAL_MODEL": "true", "MODEL_URI": "gs://b/m"}, "MODEL_URI is set, but so is USE_LOCAL_MODEL"),
        ({**BUCKET, "LABEL_URI": "gs://b/l"}, "LABEL_URI cannot be set without MODEL_URI"),
        (
            {"MODEL_URI": "ftp://b/m"},
            "MODEL_URI begins with ftp://: expected a path, or one of file, gs, https",
        ),
        ({"MODEL_URI": "gs://b"}, "MODEL_URI begins with gs://: expected a name"),
        ({"MODEL_URI": "file://b/m"}, "expected file:// and an absolute path"),
        ({"MODEL_URI": "gs://me:secret@b/m"}, "MODEL_URI has an @ before the path"),
        ({**BUCKET, "GCS_BUCKET": "gs://b"}, "GCS_BUCKET is 'gs://b'"),
        ({**BUCKET, "LABEL_FILEPATH": "/elsewhere/model.onnx"}, "must end in different names"),
        ({**BUCKET, "MODEL_FILEPATH": "/workdir/receipt.json"}, "reserved"),
        ({**BUCKET, "LABEL_FILEPATH": "/workdir/.current"}, "reserved"),
        ({**BUCKET, "MODEL_SHA256": "abc"}, "MODEL_SHA256 is 'abc'"),
        ({**BUCKET, "GCS_MODEL_GENERATION": "0"}, "GCS_MODEL_GENERATION is '0'"),
        ({**BUCKET, "GCS_ENDPOINT": "storage.googleapis.com"}, "GCS_ENDPOINT is"),
        ({**BUCKET, "GCS_ENDPOINT": "ftp://host"}, "GCS_ENDPOINT is 'ftp://host'"),
        ({**BUCKET, "GCS_ENDPOINT": "http://a host"}, "GCS_ENDPOINT is"),
        ({**BUCKET, "GCS_ENDPOINT": "http://host:0"}, "GCS_ENDPOINT is"),
        ({**BUCKET, "GCS_ENDPOINT": "http://host:65536"}, "GCS_ENDPOINT is"),
        ({**BUCKET, "GCS_ENDPOINT": "http://[::1"}, "GCS_ENDPOINT is"),
        ({**BUCKET, "GCS_ENDPOINT": "http://user@host"}, "GCS_ENDPOINT is a URL with an @"),
        ({**BUCKET, "STORAGE_EMULATOR_HOST": "host:port"}, "STORAGE_EMULATOR_HOST is 'http://host:port'"),
        ({**BUCKET, "STORAGE_EMULATOR_HOST": "me:secret@host"}, "STORAGE_EMULATOR_HOST is a URL with an @"),
        ({**BUCKET, "LOAD_TIMEOUT_SECONDS": "0"}, "LOAD_TIMEOUT_SECONDS is '0'"),
        ({**BUCKET, "DOWNLOAD_WORKERS": "65"}, "DOWNLOAD_WORKERS is '65'"),
    ],
)
def test_errors_name_the_setting(environment: dict[str, str], finding: str) -> None:
    with pytest.raises(SettingsError, match=finding):
        Settings.read(environment)


@pytest.mark.parametrize("host", ["localhost:4443", "http://localhost:4443/", "https://10.0.0.1", "[::1]:65535"])
def test_an_endpoint_has_several_valid_forms(host: str) -> None:
    assert Settings.read({**BUCKET, "STORAGE_EMULATOR_HOST": host}).storage_emulator_host == host


@pytest.mark.parametrize(
    ("environment", "model", "labels"),
    [
        (BUCKET, ("gs://b/m", ""), ("", "")),
        (
            {**BUCKET, "GCS_LABEL_BLOB": "l", "GCS_MODEL_GENERATION": "1", "GCS_LABEL_GENERATION": "2"},
            ("gs://b/m", "1"),
            ("gs://b/l", "2"),
        ),
        ({"USE_LOCAL_MODEL": "true", "LOCAL_MODEL_FILEPATH": "/a b/m"}, ("file:///a%20b/m", ""), ("", "")),
        ({**BUCKET, "USE_LOCAL_MODEL": "true", "LOCAL_MODEL_FILEPATH": "/m"}, ("file:///m", ""), ("", "")),
        ({"MODEL_URI": "gs://b/m"}, ("gs://b/m", ""), ("", "")),
        (
            {"MODEL_URI": "gs://b/m", "MODEL_VERSION": "1", "LABEL_URI": "/l", "LABEL_VERSION": "2"},
            ("gs://b/m", "1"),
            ("file:///l", "2"),
        ),
        ({"MODEL_URI": "file:///m"}, ("file:///m", ""), ("", "")),
    ],
)
def test_every_source_becomes_a_uri(
    environment: dict[str, str], model: tuple[str, str], labels: tuple[str, str]
) -> None:
    settings = Settings.read(environment)
    assert (settings.model, settings.labels) == (model, labels)


def test_a_local_model_needs_no_bucket() -> None:
    assert Settings.read({"USE_LOCAL_MODEL": "true"}).local_model_filepath.name == "iris_svc.onnx"
