"""The state of one request on its connection."""

from typing import TYPE_CHECKING

from model_server.http.errors import RequestError
from model_server.observability.observer import RequestRecord
from model_server.protocols.protocol import Headers

if TYPE_CHECKING:
    import asyncio

    from model_server.http.admission import Permit
    from model_server.http.cycle import Cycle
    from model_server.http.endpoint import Endpoint
    from model_server.prediction.batches import Entry
    from model_server.prediction.runner import Job


class Head:
    """The head of a request.

    Attributes:
        method: the HTTP method; empty for bytes that are not a request.
        url: the request target.
        version: "1.1" or "1.0".
        headers: all headers in order, with lowercase names.
        by_name: the headers by name.
        has_duplicates: whether a header name occurs more than once.
        is_last: whether the connection closes after the answer.
        wants_continue: whether the client waits for 100 Continue before it sends the body.
    """

    __slots__ = ("by_name", "has_duplicates", "headers", "is_last", "method", "url", "version", "wants_continue")

    def __init__(self, method: bytes, url: bytes, version: str, headers: Headers, *, is_last: bool) -> None:
        self.method = method
        self.url = url
        self.version = version
        self.headers = headers
        self.by_name = by_name = dict(headers)
        self.has_duplicates = len(by_name) < len(headers)
        self.is_last = is_last
        self.wants_continue = b"expect" in by_name and by_name[b"expect"].lower() == b"100-continue"


class Exchange:
    """A request and the state of its answer."""

    body: bytes | bytearray = b""
    permit: "Permit | None" = None
    job: "Entry | Job | asyncio.Task[None] | None" = None
    cycle: "Cycle | None" = None
    refusal: RequestError | None = None
    is_received = False
    is_answered = False

    def __init__(self, head: Head, record: RequestRecord, endpoint: "Endpoint | None" = None) -> None:
        self.head = head
        self.record = record
        self.endpoint = endpoint
