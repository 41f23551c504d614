"""A real server that trusts the templates of requests and gives up slow senders soon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.extend(
    [
        str(Path(__file__).parents[1] / "server"),
        str(Path(__file__).parents[1] / "unit" / "models"),
    ]
)

from running_server import MODEL, RunningServer, start_server

SETTINGS = ("--kv-cache-memory", "300MB", "--max-model-len", "512")
EDGES = ("--trust-request-chat-template", "--receive-timeout", "3", "--max-body-bytes", "16777216")


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    running = start_server(MODEL, *SETTINGS, *EDGES)
    yield running
    running.process.terminate()
    running.process.wait(20)
