"""Error messages of failed requests, and the selection of proxies."""

import pytest
import requests
from urllib3.exceptions import LocationParseError, NewConnectionError

from loader.errors import UsageError
from loader.transfer.web import ErrorTranslator, proxy_for, retry_after

SECRET = "a-secret-that-no-one-may-see"  # noqa: S105 (it opens nothing)


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.InvalidHeader(f"Invalid character(s) in header value: 'Bearer {SECRET}\\n'"),
        requests.exceptions.InvalidURL(f"Failed to parse: https://host/?{SECRET}"),
        ValueError(f"Invalid header value b'{SECRET}'"),
        LocationParseError(f"https://host/?{SECRET}"),
    ],
)
def test_the_request_is_not_quoted(error: Exception) -> None:
    said = str(ErrorTranslator("https://host", 1).translate(error))
    assert SECRET not in said
    assert type(error).__name__ in said


def test_the_reason_for_a_failed_connection_is_reported() -> None:
    error = NewConnectionError(None, "Failed to establish a new connection: [Errno 111] Connection refused")  # type: ignore[arg-type]
    assert str(ErrorTranslator("https://host", 1).translate(error)).endswith("failed ([Errno 111] Connection refused)")


def test_the_environment_sets_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://me:{SECRET}@proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example.org")
    url, headers = proxy_for("https://host/path")
    assert (url, list(headers)) == ("http://proxy:3128", ["proxy-authorization"])
    for direct in ("https://inside.example.org/", "http://host/", "http://metadata.google.internal/computeMetadata"):
        assert proxy_for(direct) == ("", {})
    monkeypatch.setenv("https_proxy", f"http://me:{SECRET}#@proxy")
    with pytest.raises(UsageError) as refused:
        proxy_for("https://host/")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(("text", "seconds"), [(None, 0), ("3", 3), ("soon", 0), ("Mon, 01 Jan 2024 00:00:00 GMT", 0)])
def test_a_retry_after_is_a_number_or_a_date(text: str | None, seconds: float) -> None:
    assert retry_after(text) == seconds
