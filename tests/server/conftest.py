"""One real server for the session: the process that ``legato serve`` starts, with the real model."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import openai
import pytest

from legato.weights import hub

MODEL = "smollm2"
SETTINGS = ("--kv-cache-memory", "300MB", "--max-model-len", "2048")


@dataclass
class RunningServer:
    url: str
    process: subprocess.Popen[str]

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        text = self.http.get("/metrics").text
        found = re.search(rf"^legato:{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, f"no metric {name} in\n{text}"
        return float(found[1])


def start_server(*flags: str, stderr: IO[str] | None = None) -> RunningServer:
    """``legato serve`` on a free port, when it has said that it is ready."""
    command = [sys.executable, "-m", "legato.cli", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        found = re.search(r"ready at (\S+)", line)
        if found:
            return RunningServer(found[1], process)
    raise AssertionError(f"the server ended with {process.wait()}: {''.join(said)}")


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
