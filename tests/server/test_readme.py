"""What README.md shows is what happens: its snippets run, and print what stands below them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running_server import RunningServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARYING = ("id", "created")


@dataclass(frozen=True)
class Snippet:
    language: str
    code: str
    output: str  # the block below it


def snippets() -> list[Snippet]:
    blocks = BLOCK.findall(README)
    return [
        Snippet(language, code, output)
        for (language, code), (shown, output) in zip(blocks, blocks[1:], strict=False)
        if language in ("sh", "python") and shown in ("text", "json")
    ]


def run(snippet: Snippet, url: str) -> str:
    code = snippet.code.replace("http://127.0.0.1:8000", url)
    code = re.sub(r"^legato ", f"{sys.executable} -m legato.cli ", code, flags=re.MULTILINE)
    command = [sys.executable, "-c", code] if snippet.language == "python" else ["sh", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def comparable(output: str) -> list[Any]:
    """Its lines; JSON (also in events) decoded, without what is another in every run."""
    lines: list[Any] = []
    for line in output.strip().splitlines():
        try:
            value = json.loads(line.removeprefix("data: "))
        except ValueError:
            lines.append(line.rstrip())
            continue
        if isinstance(value, dict):
            value = {key: item for key, item in value.items() if key not in VARYING}
            if value.get("usage"):  # what is cached depends on who asked before
                value["usage"].pop("prompt_tokens_details")
        lines.append(value)
    return lines


def test_the_tour_is_tested() -> None:
    found = snippets()
    assert len(found) >= 6
    assert len(found) == len(re.findall(r"^```(?:sh|python)$", README, re.MULTILINE))


@pytest.mark.parametrize(
    "snippet", snippets(), ids=lambda snippet: snippet.code.split("\n")[0][:40]
)
def test_snippet_prints_what_the_readme_shows(snippet: Snippet, server: RunningServer) -> None:
    assert comparable(run(snippet, server.url)) == comparable(snippet.output)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("serve", "test", "check", "bench"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "benchmarks.md"):
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
