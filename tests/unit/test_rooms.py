"""Imports between the rooms of the house run one way (ARCHITECTURE.md draws the same arrows)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src" / "legato"

# room -> rooms it may import from, besides itself. A room is a top-level module or folder of legato.
LEAVES = {"errors", "config", "speculation"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors", "speculation"},
    "speculation": {"errors"},
    "drafting": LEAVES | {"request"},
    "gguf_file": LEAVES | {"_text"},
    "kept_file": LEAVES,
    "parent": set(),
    "spare_memory": set(),
    "log_format": set(),
    "wire": set(),
    "request": LEAVES,
    "sampling_params": LEAVES | {"request"},
    "batch": LEAVES | {"request"},
    "cache": LEAVES | {"request", "batch", "kept_file"},
    "persistence": LEAVES | {"kept_file", "cache", "models", "_native"},
    "constraint": LEAVES | {"request", "batch", "_text"},
    "sequence": LEAVES | {"request", "batch", "cache", "constraint", "drafting"},
    "plan": {"sequence"},
    "faults": LEAVES | {"constraint", "plan", "sequence"},
    "scheduler": LEAVES | {"request", "batch", "cache", "drafting", "plan", "sequence"},
    "_native": {"batch"},
    "weights": LEAVES | {"_native", "gguf_file", "kept_file", "parent", "batch"},
    "models": LEAVES | {"_native", "gguf_file", "batch", "weights"},
    "runner": LEAVES | {"_native", "batch", "request", "models", "sequence", "constraint"},
    "packing": LEAVES | {"batch", "request", "cache", "sequence", "plan", "constraint"},
    "draft_model": LEAVES
    | {"cache", "drafting", "models", "packing", "plan", "runner", "sequence"},
    "messages": LEAVES | {"request", "models", "constraint"},
    "counts": {"messages", "plan", "sequence"},
    "engine": LEAVES
    | {"batch", "request", "cache", "sequence", "plan", "scheduler", "packing", "runner", "counts"}
    | {"faults", "messages", "models", "constraint", "draft_model", "drafting"},
    "engine_process": LEAVES
    | {"spare_memory", "log_format", "request", "messages", "engine", "models", "constraint"}
    | {"parent", "persistence", "wire"},
    "_text": set(),
    "text": LEAVES | {"request", "gguf_file", "_text"},
    "asking": LEAVES | {"request", "sampling_params", "models", "text", "constraint"},
    "answer": LEAVES | {"request", "text", "drafting"},
    "arguments": LEAVES | {"request", "text"},
    "request_output": {"answer", "request", "text"},
    "shared_engine": {"answer", "engine", "request"},
    "flags": set(),
    "progress": set(),
}
# Above these, engine and text meet.
UPPER = {"server", "llm", "steering", "cli", "chat_terminal", "bench", "top", "serving", "__init__"}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py").removesuffix(".pyi")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            module = names[1] if node.module == "legato" else node.module
            if node.module == "legato":
                rooms |= {name.split(".")[1] for name in names[1:]}
            elif module.startswith("legato."):
                rooms.add(module.split(".")[1])
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}: relative import")
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("legato.")}
    return rooms


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    if room in UPPER:
        return
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED what it may import"
    extra = imported_rooms(path) - ALLOWED[room] - {room}
    assert not extra, f"{path.relative_to(SOURCE)} must not import {sorted(extra)}"


def test_there_are_files() -> None:
    assert len(FILES) > 20


def test_only_config_reads_the_environment() -> None:
    """A setting read elsewhere can neither be seen nor tested."""
    readers = [
        str(path.relative_to(SOURCE))
        for path in FILES
        if "os.environ" in path.read_text(encoding="utf-8") and path.name != "config.py"
    ]
    assert readers == []


def test_each_test_file_has_a_name_of_its_own() -> None:
    """pytest imports them by name alone; of two that are called the same it takes neither."""
    names = [path.name for path in TESTS.rglob("*.py") if path.name != "conftest.py"]
    assert not {name for name in names if names.count(name) > 1}
