"""Starts the servers that are measured, one process tree each, and stops them again."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any

from legato.bench.http_stream import Endpoint, exchange, fetch_json
from legato.bench.processes import command_line, family, resident_bytes
from legato.config import child_environment
from legato.errors import EngineError, RequestError

PATIENCE = 60.0
POLL = 0.005


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


NO_GUESSES = ("--speculative-config", "off")
"""Greedy answers to random words repeat themselves, and guessing would make a race of that."""


def legato_command(model: str, threads: int, port: int) -> list[str]:
    command = [sys.executable, "-m", "legato.cli", "serve", model, "--threads", str(threads)]
    return [*command, "--host", "127.0.0.1", "--port", str(port), *NO_GUESSES]


def llama_command(
    binary: str, model: str, threads: int, port: int, slots: int, context: int
) -> list[str]:
    """``context`` tokens are shared by ``slots`` requests at a time."""
    command = [binary, "-m", model, "-t", str(threads), "-tb", str(threads), "--cont-batching"]
    command += ["-np", str(slots), "-c", str(context), "--host", "127.0.0.1", "--port", str(port)]
    return command


@dataclass
class Server(AbstractContextManager["Server"]):
    """A server of ours or of a peer's. Its output is shown only if it does not start.

    ``environment`` is added to this process's; ``patience``: seconds that it may take to be ready.
    """

    name: str
    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.port}")
        self._log = tempfile.TemporaryFile()
        self.started = perf_counter()
        self._process = subprocess.Popen(
            self.command,
            stdout=self._log,
            stderr=self._log,
            env=child_environment(**self.environment),
        )

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    @property
    def pids(self) -> list[int]:
        """The server's process and those it started. Helpers that Python keeps do not compute."""
        return family(self._process.pid)

    def role(self, pid: int) -> str:
        """What a process of ours does, for the table of processor shares."""
        if pid == self._process.pid:
            return f"{self.name} server"
        return f"{self.name} {'helper' if 'resource_tracker' in command_line(pid) else 'engine'}"

    def resident_bytes(self) -> int:
        return resident_bytes(self.pids)

    def wait(self) -> Server:
        """Until /health says that the model is loaded. Raises EngineError with the server's last words."""
        while True:
            self._check_alive()
            try:
                status, said = asyncio.run(fetch_json(self.endpoint, "GET", "/health"))
            except RequestError:
                status, said = 0, {}
            if status == 200 and (said or {}).get("status") != "loading":  # vLLM says nothing
                return self
            sleep(POLL)

    def first_token(self, body: dict[str, Any]) -> float:
        """Seconds from the start of the process to the first token of a streamed completion."""
        message = self.endpoint.message("POST", "/v1/completions", body)
        while True:
            self._check_alive()
            try:
                done = asyncio.run(exchange(self.endpoint, message))
                for arrival, data in done.events():
                    if json.loads(data).get("choices"):
                        return arrival - self.started
            except (RequestError, ValueError):
                sleep(POLL)

    def _check_alive(self) -> None:
        late = perf_counter() - self.started > self.patience
        if self._process.poll() is not None or late:
            self._log.seek(0)
            words = self._log.read().decode(errors="replace")[-2000:]
            raise EngineError(f"{self.name} does not start ({' '.join(self.command)}):\n{words}")
