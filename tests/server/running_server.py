"""A real server: the process that ``legato serve`` starts, with the real model."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

MODEL = "smollm2"
SETTINGS = ("--kv-cache-memory", "300MB", "--max-model-len", "2048")


@dataclass
class RunningServer:
    url: str
    process: subprocess.Popen[str]
    patience: float = 60  # seconds to wait for a reply

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=self.patience)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def metric(self, name: str, labels: str = "") -> float:
        """The value of a metric; ``labels`` as they are written, if it has any."""
        with self.http as http:  # its connection would count among those that are open
            text = http.get("/metrics").text
        found = re.search(
            rf"^legato:{name}{re.escape(labels and '{' + labels + '}')} (\S+)$", text, re.MULTILINE
        )
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


def start_silent_server(*flags: str, stderr: IO[str]) -> RunningServer:
    """The same where standard output says nothing: all that it says is in the log."""
    command = [sys.executable, "-m", "legato.cli", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    log = Path(stderr.name)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"ready at (http://[\w.]+:\d+)", log.read_text(encoding="utf-8")):
            return RunningServer(found[1], process)
        time.sleep(0.1)
    raise AssertionError(f"no server: {process.poll()}")


def engine_pid(server: RunningServer) -> int:
    """Raises AssertionError while there is none."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    for pid in children.split():
        if b"legato.engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise AssertionError("no engine process")
