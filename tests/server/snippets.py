"""The examples of the pages: how they are found, run and compared.

A block marked ``sh`` or ``python`` is run, and the block below it is what it prints. A block marked
``sh no-run`` or ``python no-run`` is not: it builds, installs, serves, or measures for minutes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import legato

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RUN = ("sh", "python")
SHOWN = ("sh no-run", "python no-run")
OUTPUT = ("text", "json")
VARYING = re.compile(
    r"id|created(_at)?|completed_at|(total|load|(prompt_)?eval)_duration|prompt_tokens_details"
)
"""Keys whose values differ from run to run; what is cached depends on who asked before."""

BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(^|\| )legato ", re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    page: Path
    line: int
    language: str
    code: str
    output: str  # the block below it

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """(line, mark, text) of each block."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, at.start()) + 1, at[1], at[2]) for at in BLOCK.finditer(text)]


def snippets(page: Path) -> list[Snippet]:
    return [
        Snippet(page, line, mark, code, output)
        for (line, mark, code), (_, shown, output) in pairwise(blocks(page))
        if mark in RUN and shown in OUTPUT
    ]


def run(snippet: Snippet, url: str, folder: Path) -> str:
    """What it prints, asking the server at ``url``, in a folder of its own."""
    code = snippet.code.replace("http://127.0.0.1:8000", url)
    code = COMMAND.sub(rf"\1{sys.executable} -m legato.cli ", code)
    command = [sys.executable, "-c", code] if snippet.language == "python" else ["sh", "-c", code]
    source = str(Path(legato.__file__).parents[1])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def comparable(output: str) -> list[Any]:
    """Its lines; JSON (also in events) decoded, without what is another in every run."""
    lines: list[Any] = []
    for line in output.strip().splitlines():
        try:
            lines.append(_lasting(json.loads(line.removeprefix("data: "))))
        except ValueError:
            lines.append(line.rstrip())
    return lines


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(it) for key, it in value.items() if not VARYING.fullmatch(key)}
    return [_lasting(item) for item in value] if isinstance(value, list) else value
