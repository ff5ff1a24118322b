"""The page of responses of runs that go on: a small server on this machine alone.

- :class:`ReportServer`: serves the page, and newer data as they come.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from espo_algo.evaluation.responses_page import render_page

__all__ = ["ReportServer"]


class ReportServer(ThreadingHTTPServer):
    """Serves a page that follows its runs. It listens on 127.0.0.1, and answers to this machine's names alone.

    Args:
        data: Makes the page's data, see :func:`~espo_algo.evaluation.responses_page.page_data`.
        sources: The files that they are made of; they are made anew when one has changed.
        port: 0 for any free one.

    Raises:
        OSError: If the port is taken.
    """

    daemon_threads = True

    def __init__(self, data: Callable[[], dict[str, Any]], sources: Callable[[], Iterable[Path]], port: int) -> None:
        self._make, self._sources = data, sources
        self._lock = Lock()
        self._made: tuple[Any, dict[str, Any]] | None = None
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def data(self) -> dict[str, Any]:
        """The newest data."""
        with self._lock:
            now = [_state(path) for path in self._sources()]
            if self._made is None or self._made[0] != now:
                self._made = now, self._make()
            return self._made[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone away is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        # A page of elsewhere whose name was turned to this address must not read the runs.
        if self.headers.get("Host") not in {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "expected this machine's name\n")
            return
        asked = urlsplit(self.path)
        if asked.path not in ("/", "/data.json"):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "expected / or /data.json\n")
            return
        try:
            data = self.server.data()
        except (ValueError, OSError) as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}\n")
            return
        if asked.path == "/":
            self._answer(HTTPStatus.OK, "text/html", render_page(data, live=True))
        elif parse_qs(asked.query).get("have") == [data["version"]]:
            self._answer(HTTPStatus.NO_CONTENT, "application/json", "")
        else:
            self._answer(HTTPStatus.OK, "application/json", json.dumps(data, allow_nan=False))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the terminal is the command's."""

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)


def _state(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:  # thinned out just now
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size
