"""An engine that answers loads: a server through HTTP, or OpenVINO GenAI, which has none, in its process."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import uvloop
from servers import Server

from legato.bench.load import Load, Streamed, run_load
from legato.bench.processes import family, resident_bytes
from legato.errors import EngineError

Prompts = Sequence[list[int]]


class Engine(Protocol):
    """One that runs: loads it answers, and what it holds in memory."""

    def run(self, prompts: Prompts, output_len: int, concurrency: int) -> list[Streamed]:
        """All prompts, greedily, ``concurrency`` at a time, each with ``output_len`` tokens."""

    def resident_bytes(self) -> int: ...


class Served(AbstractContextManager["Served"]):
    """A server that listens, asked by the streaming client."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __enter__(self) -> Served:
        self.server.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__(*_)

    def run(self, prompts: Prompts, output_len: int, concurrency: int) -> list[Streamed]:
        load = Load(output_len=output_len, concurrency=concurrency)
        done = uvloop.run(run_load(self.server.endpoint, load, prompts))
        return [Streamed.read(exchange) for exchange in done]

    def resident_bytes(self) -> int:
        return self.server.resident_bytes()


@dataclass
class InProcess(AbstractContextManager["InProcess"]):
    """``run_openvino.py`` with a model. ``decode`` spells token ids; cached tokens are not told."""

    command: list[str]
    decode: Any

    def __enter__(self) -> InProcess:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        try:
            self._read()
        except EngineError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._errors.close()

    def run(self, prompts: Prompts, output_len: int, concurrency: int) -> list[Streamed]:
        order = {"prompts": list(prompts), "output_len": output_len, "concurrency": concurrency}
        answers = self.ask(order)
        return [
            self._streamed(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def write_logits(self, ids: list[int], window: int, file: Path) -> None:
        self.ask({"logits": ids, "window": window, "file": str(file)})

    def resident_bytes(self) -> int:
        return resident_bytes(family(self._process.pid))

    def ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line[:1] in (b"[", b'"'):
                return json.loads(line)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace")[-800:]
        raise EngineError(f"OpenVINO ended: {words}")

    def _streamed(self, prompt: list[int], answer: dict[str, Any]) -> Streamed:
        started, arrivals = answer["started"], answer["arrivals"]
        return Streamed(
            started,
            arrivals[-1],
            [at - started for at in arrivals],
            len(prompt),
            len(answer["ids"]),
            0,
            self.decode(answer["ids"]),
        )
