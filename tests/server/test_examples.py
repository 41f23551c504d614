"""Every example runs against the real server and shows what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from running_server import RunningServer

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_continue_answer(server: RunningServer) -> None:
    said = run("continue_answer.py", f"{server.url}/v1")
    assert said.startswith("1. Red\n2. ")
    assert len(said) > len("1. Red\n2. ")


def test_stream_and_resume_goes_on_from_the_cache(server: RunningServer) -> None:
    said = run("stream_and_resume.py", f"{server.url}/v1")
    first, rest = said.split("\n[connection lost]\n")
    assert first.startswith("Once upon a time, in a forest by the sea, ")
    assert len(rest) > 20
    counts = re.search(r"\[(\d+) of (\d+) prompt tokens were cached\]", rest)
    assert counts is not None
    cached, prompt = map(int, counts.groups())
    assert prompt - 8 <= cached < prompt, "only the end of what was received may be recomputed"


def test_many_at_once(server: RunningServer) -> None:
    lines = run("many_at_once.py", f"{server.url}/v1").splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("France: Paris")


def test_offline(model_path: Path) -> None:
    said = run("offline.py", str(model_path))
    assert "The capital of France is Paris" in said
    assert re.search(r"^According to \S", said, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_tested(path: Path) -> None:
    assert f'run("{path.name}"' in Path(__file__).read_text(encoding="utf-8")
