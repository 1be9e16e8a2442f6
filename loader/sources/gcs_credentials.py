"""Application default credentials: a key file, Workload Identity or the metadata server, as google-auth finds them."""

import logging
import os
import threading
from importlib import import_module
from typing import Any

import google.auth
import google.auth.transport.urllib3
import urllib3
from google.auth import exceptions

from loader.errors import LoadError, PermissionDeniedError
from loader.transfer.retry import Setback

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


class Credentials:
    """The credentials of this process; tokens are fetched when first needed and renewed in time."""

    def __init__(self, pool: urllib3.PoolManager) -> None:
        self._request = google.auth.transport.urllib3.Request(pool)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        self._credentials: Any = None
        logging.getLogger("google.auth").setLevel(logging.ERROR)  # it warns of a missing project, which none needs

    @property
    def kind(self) -> str:
        """The module of google-auth that they are of, such as google.oauth2.service_account, and whose they are."""
        email = getattr(self._credentials, "service_account_email", None)
        return type(self._credentials).__module__ + (f" of {email}" if email else "")

    def authorize(self, url: str, headers: dict[str, str]) -> None:
        """Add what a GET of the URL needs to its headers.

        Raises:
            PermissionDeniedError: there are no credentials, they cannot be read, or they were refused.
            LoadError: a package that the metadata server is queried with is missing.
            Setback: the server that gives out tokens failed.
        """
        try:
            with self._lock:
                if self._credentials is None:
                    self._credentials, _ = google.auth.default(scopes=[_SCOPE], request=self._request)
                self._credentials.before_request(self._request, "GET", url, headers)
        except exceptions.DefaultCredentialsError as error:
            _check_metadata_client()
            raise PermissionDeniedError(
                "credentials-missing",
                f"found no Google credentials ({_first_line(error)}): set GOOGLE_APPLICATION_CREDENTIALS to a key "
                "file, run under Workload Identity, or set GCS_ANONYMOUS=true if the bucket is public",
            ) from error
        except exceptions.GoogleAuthError as error:
            if error.retryable or isinstance(error, exceptions.TransportError):
                raise Setback("token-unavailable", f"no token to be had: {_first_line(error)}") from error
            raise PermissionDeniedError(
                "credentials-refused",
                f"Google refused the credentials ({_first_line(error)}): check the key or the service account",
            ) from error
        except (OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            # google-auth lets through what a file that is none, or holds other JSON, makes it stumble over.
            raise PermissionDeniedError(
                "credentials-unusable",
                f"cannot use the credentials in {_key_file(error)} ({_first_line(error)}): set "
                "GOOGLE_APPLICATION_CREDENTIALS to a key file that the loader may read",
            ) from error


def _check_metadata_client() -> None:
    """Check that google-auth can query the metadata server.

    Raises:
        LoadError: an import fails; google-auth then skips the metadata server and only logs a warning.
    """
    try:
        for module in ("google.auth.compute_engine", "google.auth.transport.requests"):
            import_module(module)
    except ImportError as error:
        raise LoadError(
            "package-missing",
            f"google-auth cannot query the metadata server ({error}): install every package in loader/requirements.txt",
        ) from error


def _key_file(error: Exception) -> str:
    """Return the name of the file that the error is about."""
    named = error.filename if isinstance(error, OSError) else None
    return str(named or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or "gcloud's default file")


def _first_line(error: Exception) -> str:
    """Return what the error says, without the answer of the token server that may follow as another argument."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.partition("\n")[0][:200]
