"""A proxy in front of a real server that injects faults into its responses."""

import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "server", "date"}


@dataclass
class Answer:
    """A response of the upstream server, and the connection to the client."""

    handler: BaseHTTPRequestHandler
    proxy: "FaultProxy"
    code: int
    headers: list[tuple[str, str]]
    content: bytes

    def start(self, code: int = 0, length: int | None = None, **headers: str) -> None:
        """Send the headers."""
        self.handler.send_response(code or self.code)
        sent = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        for name, value in self.headers:
            if name.lower() not in _HOP | sent.keys():
                self.handler.send_header(name, value)
        for name, value in sent.items():
            self.handler.send_header(name, value)
        size = len(self.content) if length is None else length
        if self.handler.command == "HEAD":
            size = int({name.lower(): value for name, value in self.headers}.get("content-length", size))
        self.handler.send_header("Content-Length", str(size))
        self.handler.end_headers()

    def write(self, content: bytes) -> None:
        """Send a part of the body."""
        if self.handler.command != "HEAD":
            self.handler.wfile.write(content)

    def whole(self) -> None:
        """Send the upstream response unchanged."""
        self.start()
        self.write(self.content)

    def refuse(self, code: int, **headers: str) -> None:
        """Send an empty response with this status."""
        self.handler.send_response(code)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", "0")
        self.handler.end_headers()

    def close(self) -> None:
        """Close the connection after this response."""
        self.handler.close_connection = True

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
        connection.close()


Fault = Callable[[Answer], None]
IsBytes = Callable[[str, str, str], bool]


class FaultProxy(ThreadingHTTPServer):
    """A proxy to one server, with a queue of faults for `bytes` requests and one for `metadata` requests."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        upstream: str,
        is_bytes: IsBytes,
        tls: ssl.SSLContext | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        super().__init__(address, _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.is_bytes = is_bytes
        self.tls = tls
        self.over = threading.Event()
        self.requests: list[str] = []
        self.heads: list[str] = []
        self._faults: dict[str, Iterator[Fault]] = {}
        self._before: dict[str, Callable[[], None]] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """The host and the port."""
        return f"localhost:{self.server_address[1]}" if self.tls else f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """The proxy's URL."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def on(self, kind: str, faults: Iterator[Fault]) -> None:
        """Inject these faults into the next responses of the kind, one each."""
        self._faults[kind] = faults

    def before(self, kind: str, action: Callable[[], None]) -> None:
        """Run the action once, when the next request of the kind arrives."""
        self._before[kind] = action

    def reset_faults(self) -> None:
        """Delete the unused faults and the recorded requests."""
        self._faults.clear()
        self._before.clear()
        self.requests.clear()
        self.heads.clear()

    def take(self, kind: str) -> tuple[Fault | None, Callable[[], None] | None]:
        """Return the fault and the action for the next response of the kind."""
        with self._lock:
            return next(self._faults.get(kind, iter(())), None), self._before.pop(kind, None)

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection, with TLS if the proxy has it."""
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        """Serve requests until the end of the block."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            self.shutdown()
            self.server_close()
            thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: broken connections are expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Forward the request, and inject a fault into its response."""
        proxy = cast("FaultProxy", self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = "bytes" if proxy.is_bytes(self.command, self.path, self.headers.get("Range", "")) else "metadata"
        proxy.requests.append(f"{kind} {self.command} {self.path} {self.headers.get('Range', '')}".strip())
        proxy.heads.append(str(self.headers))
        fault, before = proxy.take(kind)
        if before:
            before()
        connection = http.client.HTTPConnection(proxy.upstream)
        with suppress(OSError):
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            answer = Answer(self, proxy, response.status, response.getheaders(), response.read())
            if fault:
                fault(answer)
            else:
                answer.whole()
        connection.close()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def fault_proxy(upstream: str, is_bytes: IsBytes, tls: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
    """Run a proxy for one test."""
    with FaultProxy(upstream, is_bytes, tls).running() as proxy:
        yield proxy
