"""A hub on this machine: enough of its HTTP interface to list and download one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StubHub:
    """``files`` of the repository ``org/tiny``. ``requests``: (method, path, Range header)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.commit = COMMIT
        self.cut_after: int | None = None  # close connections after so many bytes of a large file
        self.stall_after: int | None = None  # or stop sending, without closing
        self.stall_listing = False
        self.status: int | None = None  # answer everything with this
        self.file_statuses: list[int] = []  # answer the next requests for files with these
        self.error_code = ""  # goes with them
        self.retry_after = ""  # too
        self.requests: list[tuple[str, str, str | None]] = []
        self.stalled = threading.Event()
        self.url = ""

    def info(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": "b" * 40}
            if len(data) > 10_000:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": "org/tiny", "modelId": "org/tiny", "sha": self.commit, "siblings": siblings}

    def ranges(self) -> list[str | None]:
        return [r for method, path, r in self.requests if "/resolve/" in path and method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StubHub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append(("GET", self.path, self.headers.get("Range")))
        if hub.status is not None:
            return self.answer(hub.status, b"{}")
        if self.path.startswith("/api/models/org/tiny"):
            if hub.stall_listing:
                return self.stall()
            return self.answer(200, json.dumps(hub.info()).encode())
        prefix = f"/org/tiny/resolve/{hub.commit}/"
        name = self.path.removeprefix(prefix)
        if self.path.startswith(prefix) and name in hub.files:
            if hub.file_statuses:
                told = {"X-Error-Code": hub.error_code, "Retry-After": hub.retry_after}
                headers = {name: value for name, value in told.items() if value}
                return self.answer(hub.file_statuses.pop(0), b"{}", headers)
            return self.send_file(hub.files[name])
        self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, data: bytes) -> None:
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        hub, left = self.hub, data[start:]
        if len(data) > 10_000 and hub.cut_after is not None:
            self.wfile.write(left[: hub.cut_after])
            self.close_connection = True
        elif len(data) > 10_000 and hub.stall_after is not None:
            self.wfile.write(left[: hub.stall_after])
            self.wfile.flush()
            self.stall()
        else:
            self.wfile.write(left)

    def stall(self) -> None:
        """Long enough to be noticed; then the connection ends, so that no test hangs for ever."""
        self.hub.stalled.set()
        threading.Event().wait(20)
        self.close_connection = True


@contextmanager
def serving(hub: StubHub) -> Iterator[StubHub]:
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
