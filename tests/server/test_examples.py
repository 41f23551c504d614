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


def test_stream_and_resume_gives_the_uninterrupted_answer(server: RunningServer) -> None:
    said = run("stream_and_resume.py", f"{server.url}/v1")
    first, rest = said.split("\n[connection lost; ")
    assert len(first) >= 100
    cached = re.match(r"(\d+) tokens were still cached\]\n.{20}", rest, re.DOTALL)
    assert cached is not None and int(cached[1]) > 40, "only the end may be recomputed"
    assert said.endswith("\n[and so goes the uninterrupted answer, to the letter]\n")


def test_classify(server: RunningServer) -> None:
    lines = run("classify.py", f"{server.url}/v1").splitlines()
    labels = [re.match(r"(positive|negative) \((\d+)%\): ", line) for line in lines]
    assert [label and label[1] for label in labels] == ["positive", "negative"] * 2
    assert all(label and 50 < int(label[2]) <= 100 for label in labels)


def test_json_from_a_brace(server: RunningServer) -> None:
    lines = run("json_from_a_brace.py", f"{server.url}/v1").splitlines()
    assert lines[0] == "{'country': 'France', 'capital': 'Paris', 'continent': 'Europe'}"
    assert len(lines) == 3


def test_in_character(server: RunningServer) -> None:
    lines = run("in_character.py", f"{server.url}/v1").splitlines()
    assert len(lines) == 6
    for said in lines[1::2]:
        assert re.match(r"  Yo ho ho! I [a-z].*\.$", said)


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
