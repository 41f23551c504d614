"""SIGTERM: open requests finish, new ones are refused, and a second signal does not wait."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from running_server import SETTINGS, RunningServer, start_server

BODY = {"prompt": "One, two,", "max_tokens": 400, "ignore_eos": True, "stream": True}


@pytest.fixture
def server(model_path: Path) -> Iterator[RunningServer]:
    started = start_server(str(model_path), *SETTINGS, "--drain-timeout", "60")
    yield started
    started.process.kill()
    started.process.wait()


class Reader(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.lines = url, [""]
        self.begun = threading.Event()
        self.start()
        self.begun.wait(20)

    def run(self) -> None:
        with (
            suppress(httpx.RemoteProtocolError),
            httpx.stream("POST", f"{self.url}/v1/completions", json=BODY, timeout=60) as response,
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
    reader = Reader(server.url)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    server.process.wait(10)
    assert time.monotonic() - started < 6
    reader.join(10)
