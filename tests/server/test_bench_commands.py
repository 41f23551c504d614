"""``legato bench`` as it is typed, on the real model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running_server import RunningServer

from legato.cli import main

FLOOR = Path(__file__).parents[2] / "benchmarks" / "floor.py"


def bench(tmp_path: Path, *words: str) -> dict[str, Any]:
    """The figures that the command wrote."""
    report = tmp_path / "report.json"
    assert main(["bench", *words, "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    assert content["command"] == words[0]
    assert content["machine"]["processors"] > 0
    summary: dict[str, Any] = content["summary"]
    return summary


def test_serve(server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "serve --num-prompts 6 --concurrency 3 --input-len 40 --output-len 8 --rounds 2"
    figures = bench(tmp_path, *words.split(), "--base-url", server.url)
    assert 0 < figures["ttft_p50_ms"]["median"] <= figures["ttft_p99_ms"]["median"]
    assert figures["output_tokens_per_s"]["min"] > 0
    assert "smollm2" in capsys.readouterr().out


def test_serve_with_a_shared_prefix_at_a_rate(server: RunningServer, tmp_path: Path) -> None:
    words = "serve --num-prompts 4 --request-rate 50 --input-len 64 --shared-prefix 48 --seed 9"
    figures = bench(tmp_path, *words.split(), "--output-len", "4", "--base-url", server.url)
    assert figures["end_to_end_p50_ms"]["median"] > 0


@pytest.mark.parametrize("named", [False, True])
def test_serve_without_a_server(
    named: bool, model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where nobody has to be asked before the load."""
    told = ["--model", "smollm2", "--tokenizer", str(model_path)] if named else []
    assert main(["bench", "serve", "--base-url", "http://127.0.0.1:9", *told]) == 1
    assert "no server at" in capsys.readouterr().err


def test_grammar(tmp_path: Path) -> None:
    words = "grammar --num-prompts 3 --output-len 8 --rounds 1"
    figures = bench(tmp_path, *words.split())
    assert 0 < figures["free_step_ms"]["median"]
    assert figures["step_under_the_schema_ms"]["median"] > 0


@pytest.mark.parametrize("mode", ["", "--cold", "--endpoint completions", "--temperature 1"])
def test_seam(
    mode: str, server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"seam --questions 2 --output-len 24 --every 10 {mode}"
    figures = bench(tmp_path, *words.split(), "--base-url", server.url)
    assert figures["cuts"]["all"]["cuts"] > 4
    assert figures["cuts"]["all"]["share"] == 1
    if mode != "--cold":  # which times nothing
        resumed = figures["resumed"]
        assert resumed["recomputed_at_most_a_block"] == resumed["continuations"] > 0
    assert "exact continuations: legato, smollm2" in capsys.readouterr().out


def test_chat(server: RunningServer, tmp_path: Path) -> None:
    words = "chat --lengths 30,200 --output-len 6 --rounds 2"
    figures = bench(tmp_path, *words.split(), "--base-url", server.url)
    for length in (30, 200):
        tokens = figures[f"prompt_of_{length}_words_tokens"]["median"]
        assert length < tokens < 2 * length + 60  # the template, and the answer so far
        for what in ("ttft", "step"):
            assert figures[f"{what}_behind_{length}_words_ms"]["min"] > 0


@pytest.mark.parametrize(
    "words",
    [
        *[f"chat --lengths={lengths}" for lengths in ("", "0", "10,x", "10,,20", "-1")],
        "serve --concurrency 0",
        "serve --request-rate 0",
        "serve --request-rate nan",
        "serve --num-prompts 0",
        "latency --output-len 0",
        "latency --rounds 0",
        "overhead --batch-sizes x",
        "seam --every 0",
        "stall --streams -1",
        "grammar --input-len 1.5",
    ],
)
def test_none_of_what_is_measured(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each would hang, end with a traceback, or print an empty table."""
    with pytest.raises(SystemExit):
        main(["bench", *words.split(" ")])
    flag = words.split()[1].partition("=")[0]
    assert f"argument {flag}: must be " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["latency", "throughput --num-prompts 3"])
def test_in_process(command: str, model_path: Path, tmp_path: Path) -> None:
    words = [*command.split(), "--input-len", "24", "--output-len", "6", "--rounds", "2"]
    figures = bench(tmp_path, *words, "--model", str(model_path), "--kv-cache-memory", "64MiB")
    assert figures["memory_mib"]["median"] > 50
    expected = "decode_tokens_per_s" if command == "latency" else "output_tokens_per_s"
    assert figures[expected]["min"] > 0


def test_floor_without_a_peer(model_path: Path, tmp_path: Path) -> None:
    report = tmp_path / "floor.json"
    command = [sys.executable, str(FLOOR), "--alone", "--rounds", "1", "--part", "warm_start"]
    command += ["--model", str(model_path), "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    content = json.loads(report.read_text())
    figures = {figure["name"]: figure for figure in content["figures"]}
    assert figures["warm start to first token"]["legato"]["median"] > 0
    assert figures["warm start to first token"]["llama.cpp"]["median"] is None
    assert figures["memory beyond weights"]["met"] is True
    assert content["noise"].keys() == {"warm start"}
