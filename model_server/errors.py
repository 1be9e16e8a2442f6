"""The two kinds of failure that have a sentence for somebody: at start, and in a request."""

from collections.abc import Sequence


class StartError(Exception):
    """The service cannot start: the message is one line that says what was found and what was expected.

    Attributes:
        reason: that, without what to do.
        change: what to do about it; empty where the reason leaves no doubt.
    """

    def __init__(self, reason: str, change: str = "") -> None:
        super().__init__(f"{reason}: {change}" if change else reason)
        self.reason = reason
        self.change = change


class RequestError(ValueError):
    """A request that is refused.

    Attributes:
        detail: one sentence for the client: what was wrong and what was expected.
        status: HTTP status code, 4xx or 503.
        headers: extra response headers.
    """

    def __init__(self, detail: str, status: int = 400, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.headers = headers
