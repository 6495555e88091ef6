"""Serves the page and answers it, to this machine alone."""

import http.server
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

from keras_struct.demo import panels

PAGES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
ANSWERS: dict[str, Callable[..., dict[str, Any]]] = {
    "/trees": panels.trees,
    "/sequences": panels.sequences,
    "/structures": panels.structures,
    "/spaces": panels.spaces,
}
LARGEST = 40_000_000  # bytes of a request: two structure files
HOSTS = ("127.0.0.1", "localhost")


class Handler(http.server.BaseHTTPRequestHandler):
    """GET of a file of the page; POST of the arguments of a panel, as JSON.

    An error is `{"error": sentence}` with status 400. Requests under another name than that of this
    machine are refused, so that no other page can ask by way of the user's browser.
    """

    def do_GET(self) -> None:
        if not self._is_local() or self.path not in PAGES:
            return self._send(404, "text/plain", b"There is no such page.")
        name, kind = PAGES[self.path]
        text = resources.files("keras_struct.demo").joinpath(name).read_bytes()
        self._send(200, kind, text)

    def do_POST(self) -> None:
        if not self._is_local() or self.path not in ANSWERS:
            return self._send(404, "text/plain", b"There is no such page.")
        try:
            status, answer = 200, ANSWERS[self.path](**self._arguments())
        except (ValueError, TypeError, OSError, ImportError) as error:
            status, answer = 400, {"error": str(error)[:1000]}
        self._send(status, "application/json", json.dumps(answer).encode())

    def _arguments(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST:
            raise ValueError(f"Expected at most {LARGEST} bytes. Received: {length}")
        arguments = json.loads(self.rfile.read(length))
        if not isinstance(arguments, dict):
            raise ValueError(f"Expected arguments by name. Received: {arguments!r}")
        return arguments

    def _is_local(self) -> bool:
        return self.headers.get("Host", "").rsplit(":", 1)[0] in HOSTS

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def make_server(port: int) -> http.server.HTTPServer:
    """One request after the other, since a backend is one."""
    try:
        return http.server.HTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise OSError(f"Expected a free port. Received: port={port} ({error})") from error
