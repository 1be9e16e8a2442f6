"""Redirects, which are not followed to plain HTTP or to local addresses."""

import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

import requests

from loader.errors import LoadError
from loader.transfer.retry import TransientError
from loader.transfer.web import ErrorTranslator, proxy_for

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5

Refuse = Callable[[requests.Response, ErrorTranslator], None]


class RedirectingClient:
    """HTTP client that follows safe redirects.

    Args:
        session: the session that sends the requests.
        stall_seconds: the timeout for connecting and for each read.
    """

    def __init__(self, session: requests.Session, stall_seconds: float) -> None:
        self._session = session
        self._stall_seconds = stall_seconds

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], secrets: Mapping[str, str], refuse: Refuse
    ) -> Iterator[requests.Response]:
        """Send a GET request and yield the response, whose status is 200 or 206.

        Args:
            url: the first URL.
            headers: the headers for every host.
            secrets: the headers for the first host only.
            refuse: function that raises the error for any other response.

        Raises:
            LoadError: the response is an error, or a redirect that is not allowed.
            TransientError: the request failed and can be retried.
        """
        home = urlsplit(url).netloc
        action = f"cannot read {url.partition('?')[0]}"
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            errors = ErrorTranslator(f"{parts.scheme}://{parts.netloc}", self._stall_seconds)
            sent = {**headers, **(secrets if parts.netloc == home else {}), "Accept-Encoding": "identity"}
            with errors.translating():
                response = self._session.get(
                    url, headers=sent, stream=True, timeout=self._stall_seconds, allow_redirects=False
                )
                try:
                    if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                        yield response
                        return
                    if response.status_code not in _REDIRECTS:
                        refuse(response, errors)
                    following = urljoin(url, response.headers.get("Location", ""))
                    _check(url, following, action)
                    url = following
                finally:
                    response.close()
        raise LoadError("redirect-refused", f"{action}: redirected more than {_MOST_REDIRECTS} times")


def _check(old: str, new: str, action: str) -> None:
    """Raise `LoadError` for a redirect to another host that is not HTTPS, or is a loopback or link-local address."""
    home, parts = urlsplit(old), urlsplit(new)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if (parts.scheme, parts.netloc) == (home.scheme, home.netloc):
        return
    if parts.scheme != "https" or not host or "@" in parts.netloc:
        raise LoadError("redirect-refused", f"{action}: redirected to {parts.scheme}://, expected https:// and a host")
    for address in _addresses(host, port or 443, by_name=not proxy_for(new)[0]):
        if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
            raise LoadError(
                "redirect-refused", f"{action}: redirected to {host}, an address of this machine or its network"
            )


def _addresses(host: str, port: int, *, by_name: bool) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Yield the addresses of a host; with a proxy, names are not resolved."""
    try:
        flags = 0 if by_name else socket.AI_NUMERICHOST
        for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
            found = ipaddress.ip_address(str(address[0]).partition("%")[0])
            yield getattr(found, "ipv4_mapped", None) or found
    except (OSError, UnicodeError) as error:
        if not by_name:
            return
        raise TransientError("connection-failed", f"the name of {host} cannot be resolved") from error
