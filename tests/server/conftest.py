"""One real server for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from running_server import MODEL, SETTINGS, RunningServer, start_server

from legato.weights import hub


@pytest.fixture(scope="session")
def model_path() -> Path:
    return hub.resolve(MODEL).path


@pytest.fixture(scope="session")
def server(model_path: Path) -> Iterator[RunningServer]:
    running = start_server(MODEL, *SETTINGS)
    yield running
    running.process.terminate()
    running.process.wait(20)


@pytest.fixture(scope="session")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def async_client(server: RunningServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60
    )
