"""A Cloud Storage endpoint on a real socket that injects faults."""

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from crc32c import crc32c

TOKEN = "a-token-that-no-one-may-see"  # noqa: S105 (it opens nothing)


@dataclass
class StoredObject:
    """A stored object; given metadata takes precedence over that of the content."""

    content: bytes
    generation: int = 1
    metadata: dict[str, str] = field(default_factory=dict)
    hash_header: bool = True

    def resource(self) -> dict[str, str]:
        """The object's metadata in the format of the JSON API."""
        checksum = base64.b64encode(crc32c(self.content).to_bytes(4, "big")).decode()
        size = str(len(self.content))
        return {"size": size, "generation": str(self.generation), "crc32c": checksum, **self.metadata}


@dataclass
class Exchange:
    """One request, and methods to respond to it."""

    handler: BaseHTTPRequestHandler
    server: "FaultServer"
    name: str
    kind: str
    query: dict[str, list[str]]

    @property
    def stored(self) -> StoredObject:
        """The requested object."""
        return self.server.objects[self.name]

    def status(self, code: int, body: bytes = b"", **headers: str) -> None:
        """Respond with a status and without the object."""
        self.handler.send_response(code)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def span(self) -> tuple[int, int]:
        """The requested range as start and end; the end is exclusive."""
        first, _, last = self.handler.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1

    def media_headers(self, length: int | None = None) -> None:
        """Send the headers of a correct response, or of one with another length."""
        start, end = self.span()
        resource = self.stored.resource()
        self.handler.send_response(206)
        self.handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{resource['size']}")
        self.handler.send_header("Content-Length", str(end - start if length is None else length))
        self.handler.send_header("X-Goog-Generation", resource["generation"])
        if self.stored.hash_header:
            self.handler.send_header("X-Goog-Hash", f"crc32c={resource['crc32c']}")
        self.handler.end_headers()

    def media(self) -> None:
        """Send the correct response."""
        start, end = self.span()
        self.media_headers()
        self.handler.wfile.write(self.stored.content[start:end])

    def wait_for_the_end(self, seconds: float | None = None) -> bool:
        """Wait until the test ends or the seconds have passed; return whether it ended."""
        return self.server.over.wait(seconds)

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.close_connection = True
        connection.close()


Fault = Callable[[Exchange], None]


class FaultServer(ThreadingHTTPServer):
    """A server for objects, with a queue of faults per kind of request: `metadata`, `media` or `token`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, StoredObject] = {}
        self.requests: list[str] = []
        self.authorizations: set[str] = set()
        self.over = threading.Event()
        self._faults: dict[str, Iterator[Fault]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def on(self, kind: str, faults: Iterator[Fault]) -> None:
        """Inject these faults into the next responses of the kind, one each."""
        self._faults[kind] = faults

    def next_fault(self, kind: str) -> Fault | None:
        """Remove and return the fault for the next response of the kind."""
        with self._lock:
            return next(self._faults.get(kind, iter(())), None)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: broken connections are expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        server = cast("FaultServer", self.server)
        parts = urlsplit(self.path)
        name = unquote(parts.path.rpartition("/o/")[2])
        if "/o/" not in parts.path:
            self._answer_token()
            return
        kind = "media" if parts.path.startswith("/download") else "metadata"
        exchange = Exchange(self, server, name, kind, parse_qs(parts.query))
        server.requests.append(f"{kind} {name} {self.headers.get('Range', '')}".strip())
        server.authorizations.add(self.headers.get("Authorization", ""))
        if fault := server.next_fault(kind):
            fault(exchange)
        elif name not in server.objects or exchange.query.get("generation", [""])[0] not in (
            "",
            str(exchange.stored.generation),
        ):
            exchange.status(404)
        elif kind == "media":
            exchange.media()
        else:
            exchange.status(200, json.dumps(exchange.stored.resource()).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer_token()

    def _answer_token(self) -> None:
        """Issue a token, like the token server of a key file or Google's metadata server."""
        server = cast("FaultServer", self.server)
        exchange = Exchange(self, server, "", "token", {})
        if fault := server.next_fault("token"):
            fault(exchange)
        else:
            token = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer", "email": "me", "scopes": []}
            headers = {"Metadata_Flavor": "Google", "Content_Type": "application/json"}
            exchange.status(200, json.dumps(token).encode(), **headers)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def fault_server() -> Iterator[FaultServer]:
    """Run a server for one test."""
    server = FaultServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
