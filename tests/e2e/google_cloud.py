"""A substitute for Google Cloud: a metadata server, and a Cloud Storage endpoint that accepts only its tokens.

It runs in a container that has only the standard library. Arguments: the port to listen on, and the host and port of
the emulator with the objects.
"""

import http.client
import json
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, EMULATOR = int(sys.argv[1]), sys.argv[2]
TOKEN = secrets.token_urlsafe()
ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"
STRINGS = {
    "/": "computeMetadata/",
    "/computeMetadata/v1/project/project-id": "e2e",
    "/computeMetadata/v1/universe/universe-domain": "googleapis.com",
}
DOCUMENTS = {
    f"{ACCOUNT}/": {"email": "model-loader@e2e.iam.gserviceaccount.com", "scopes": []},
    f"{ACCOUNT}/token": {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"},
}
METADATA = {path: ("application/text", text) for path, text in STRINGS.items()} | {
    path: ("application/json", json.dumps(document)) for path, document in DOCUMENTS.items()
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path not in METADATA:
            self._forward()
        elif self.headers["Metadata-Flavor"] != "Google":
            self._answer(403, {})
        else:
            content_type, text = METADATA[path]
            self._answer(200, {"Metadata-Flavor": "Google", "Content-Type": content_type}, text.encode())

    def _forward(self) -> None:
        """Forward a request with the token to the emulator."""
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {})
            return
        emulator = http.client.HTTPConnection(EMULATOR)
        emulator.request("GET", self.path, headers={"Range": self.headers["Range"]} if "Range" in self.headers else {})
        with emulator.getresponse() as response:
            headers = {name: value for name, value in response.headers.items() if name.startswith(("Content-", "X-"))}
            self._answer(response.status, headers, response.read())

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", PORT), _Handler).serve_forever()
