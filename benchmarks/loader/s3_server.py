"""The part of S3 that downloads need: HEAD, ranges, a listing, and a checksum of the whole object; no signatures.

moto would take 20 s for 512 MiB. Arguments: the directory of the buckets, and the port.
"""

import base64
import os
import re
import sys
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from awscrt.checksums import crc64nvme

_BLOCK = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    root: Path
    checksums: dict[Path, str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = self.root / unquote(parts.path).strip("/")
        if path.is_dir() and self.command == "GET":
            self._list(path, parse_qs(parts.query).get("prefix", [""])[0])
        elif not path.is_file():
            self.send_response(200 if path.is_dir() else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(path)

    def _send(self, path: Path) -> None:
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if path not in self.checksums:
            self.checksums[path] = _checksum(path)
        if self.headers.get("x-amz-checksum-mode") and not asked:
            self.send_header("x-amz-checksum-crc64nvme", self.checksums[path])
            self.send_header("x-amz-checksum-type", "FULL_OBJECT")
        self.send_header("ETag", '"0123456789abcdef0123456789abcdef-1"')
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            with path.open("rb") as file, suppress(ConnectionError):  # the client can close the connection early
                while start < end:
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)

    def _list(self, bucket: Path, prefix: str) -> None:
        keys = sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(bucket / key).stat().st_size}</Size></Contents>"
            for key in keys
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the output to the benchmark."""


def _checksum(path: Path) -> str:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = crc64nvme(block, crc)
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


if __name__ == "__main__":
    _Handler.root, _Handler.checksums = Path(sys.argv[1]), {}
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler)
    server.daemon_threads = True
    server.serve_forever()
