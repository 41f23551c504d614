"""One real server for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_engine import FakeEngine, Script
from fake_service import Build, FakeServer
from running_server import MODEL, SETTINGS, RunningServer, start_server

from legato.text.template import load_chat_template
from legato.text.tokenizer import Tokenizer, load_tokenizer
from legato.weights import hub


@pytest.fixture(scope="session")
def model_path() -> Path:
    return hub.resolve(MODEL).path


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> Tokenizer:
    return load_tokenizer(model_path)


@pytest.fixture
def build(model_path: Path, tokenizer: Tokenizer) -> Build:
    template = load_chat_template(model_path)

    def build(
        script: Script | str = "hello", **config: Any
    ) -> tuple[httpx.AsyncClient, FakeEngine]:
        server = FakeServer(tokenizer, template, script, **config)
        return server.client, server.engine

    return build


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
