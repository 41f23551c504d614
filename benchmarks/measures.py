"""What one round measures, of either engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from servers import NO_GUESSES, Server

from legato.bench.load import Load, Streamed, check_lengths, run_load, summary
from legato.bench.processes import ProcessorUse
from legato.bench.rounds import Round
from legato.errors import EngineError

Shares = dict[str, float]
"""Processors in use while a load ran (1.0 is one of them), by what the process does."""


def stream_all(
    server: Server, prompts: Sequence[list[int]], output_len: int
) -> tuple[Round, Shares]:
    """All prompts at once as streamed completions. Raises EngineError for an answer cut short."""
    load = Load(output_len=output_len, concurrency=len(prompts))
    use = ProcessorUse([*server.pids, os.getpid()])
    exchanges = uvloop.run(run_load(server.endpoint, load, prompts))
    use.stop()
    answers = [Streamed.read(done) for done in exchanges]
    complaints = check_lengths(answers, len(prompts[0]), output_len)
    if complaints:
        raise EngineError(f"{server.name}: {complaints[0]}")
    shares: Shares = {}
    for pid, processors in use.by_process.items():
        role = "client" if pid == os.getpid() else server.role(pid)
        shares[role] = shares.get(role, 0.0) + processors
    return summary(answers), shares


def stream_one(server: Server, prompt: list[int], output_len: int) -> tuple[float, float]:
    """Tokens a second of prefill (prompt tokens until the first token came) and of decoding."""
    figures, _ = stream_all(server, [prompt], output_len)
    return len(prompt) * 1e3 / figures["ttft_p50_ms"], 1e3 / figures["time_per_token_p50_ms"]


def legato_in_process(
    model: str, threads: int, input_len: int, output_len: int
) -> tuple[float, float]:
    """Prefill and decode tokens a second by ``legato bench latency``, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "latency.json"
        command = [sys.executable, "-m", "legato.cli", "bench", "latency", "--model", model]
        command += ["--threads", str(threads), "--rounds", "1", "--json", str(report)]
        command += ["--input-len", str(input_len), "--output-len", str(output_len)]
        done = subprocess.run([*command, *NO_GUESSES], capture_output=True, text=True)
        if done.returncode:
            raise EngineError(f"legato bench latency failed: {done.stderr[-500:]}")
        figures = json.loads(report.read_text())["rounds"][0]
    return figures["prefill_tokens_per_s"], figures["decode_tokens_per_s"]


def warm_start(server: Server, prompt: list[int]) -> tuple[float, int]:
    """Seconds from spawning to the first token through HTTP, and resident bytes right after."""
    body = Load(output_len=2, concurrency=1).body(prompt)
    seconds = server.first_token(body)
    return seconds, server.resident_bytes()
