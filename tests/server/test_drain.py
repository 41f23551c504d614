"""SIGTERM: open requests finish, new ones are refused, and a second signal does not wait."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, engine_pid, start_server
from storms import settled

BODY = {"prompt": "One, two,", "max_tokens": 400, "ignore_eos": True, "stream": True}
LONG = BODY | {"max_tokens": 1900, "n": 16}


@pytest.fixture
def server(model_path: Path) -> Iterator[RunningServer]:
    started = start_server(str(model_path), *SETTINGS, "--drain-timeout", "60")
    yield started
    started.process.kill()
    started.process.wait()


class Reader(threading.Thread):
    """Reads a stream to its end."""

    def __init__(
        self, url: str, path: str = "/v1/completions", body: Mapping[str, Any] = BODY
    ) -> None:
        super().__init__()
        self.url, self.lines, self.body = url + path, [""], body
        self.begun = threading.Event()
        self.start()
        self.begun.wait(20)

    def run(self) -> None:
        with (
            suppress(httpx.RemoteProtocolError),
            httpx.stream("POST", self.url, json=self.body, timeout=60) as response,
        ):
            for line in response.iter_lines():
                self.lines += [line] if line else []
                self.begun.set()


def test_a_term_drains(server: RunningServer) -> None:
    reader = Reader(server.url)
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 5
    while httpx.get(f"{server.url}/ready").status_code == 200:
        assert time.monotonic() < deadline
    assert httpx.get(f"{server.url}/ready").json() == {"status": "draining"}
    assert httpx.get(f"{server.url}/health").status_code == 200
    refused = httpx.post(f"{server.url}/v1/completions", json=BODY)
    assert refused.status_code == 503 and refused.headers["retry-after"]
    reader.join(60)
    assert reader.lines[-1] == "data: [DONE]"
    assert any('"finish_reason":"length"' in line for line in reader.lines)
    assert server.process.wait(5) == 0


def test_a_second_term_stops(server: RunningServer) -> None:
    reader = Reader(server.url, body=LONG)  # for longer than that, on any machine
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    server.process.wait(10)
    assert time.monotonic() - started < 6
    reader.join(10)
    assert '"code":"not_ready"' in reader.lines[-1]


def test_what_takes_too_long_is_cut_off(model_path: Path, tmp_path: Path) -> None:
    """--drain-timeout 1: a reply is a 503, a stream's last event an error, and the server ends at once, with
    0."""
    chat = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, "n": 16}
    with (tmp_path / "log").open("w+") as log, ThreadPoolExecutor(1) as other:
        server = start_server(str(model_path), *SETTINGS, "--drain-timeout", "1", stderr=log)
        try:
            path = f"{server.url}/v1/chat/completions"
            asked = other.submit(httpx.post, path, json=chat, timeout=60)
            readers = [Reader(server.url, body=LONG)]
            readers += [Reader(server.url, "/v1/chat/completions", chat | {"stream": True})]
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(15) == 0
            assert 0.9 < time.monotonic() - started < 4
        finally:
            server.process.kill()
            server.process.wait()
        reply = asked.result(10)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert reply.json()["error"]["code"] == "not_ready"
        for reader in readers:
            reader.join(10)
            assert '"code":"not_ready"' in reader.lines[-1]
            assert not any("[DONE]" in line for line in reader.lines)
        log.seek(0)
        assert "Traceback" not in log.read()


def test_loading_is_told(model_path: Path) -> None:
    """The engine's process is held up while it loads: the server lives, and says that it is not ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "legato.cli", "serve", str(model_path), *SETTINGS]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    server = RunningServer(f"http://127.0.0.1:{port}", process)
    try:
        engine = None
        while engine is None:
            with suppress(AssertionError, FileNotFoundError):
                engine = engine_pid(server)
        os.kill(engine, signal.SIGSTOP)
        reply = when_it_listens(server, "/health")
        assert reply.status_code == 200 and reply.json() == {"status": "loading"}
        reply = server.http.get("/ready")
        assert reply.status_code == 503 and reply.json() == {"status": "loading"}
        refused = server.http.post("/v1/completions", json=BODY)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "not_ready"
        assert refused.headers["retry-after"]
        os.kill(engine, signal.SIGCONT)
        settled(lambda: server.http.get("/ready").status_code == 200)
        assert server.http.get("/health").json() == {"status": "ready"}
    finally:
        process.kill()
        process.wait()


def when_it_listens(server: RunningServer, path: str) -> httpx.Response:
    for _ in range(600):
        with suppress(httpx.ConnectError):
            return server.http.get(path)
        time.sleep(0.05)
    raise AssertionError("it does not listen")
