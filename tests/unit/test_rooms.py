"""Imports between the rooms of the house run one way (ARCHITECTURE.md draws the same arrows)."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src" / "legato"

# room -> rooms it imports from. A room is a top-level module or folder of legato. What the server must not
# have is the engine: that lives in a process of its own.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "speculation": {"errors"},
    "settings_fields": {"errors"},
    "config": {"errors", "settings_fields", "speculation"},
    "log_format": set(),
    "parent": set(),
    "spare_memory": set(),
    "wire": set(),
    "flags": set(),
    "progress": set(),
    "request": set(),
    "sampling_params": {"errors", "request"},
    "batch": set(),
    "gguf_file": {"_text", "errors"},
    "kept_file": {"config"},
    "cache": {"batch", "errors", "kept_file"},
    "constraint": {"_text", "batch", "errors", "request"},
    "drafting": {"request", "speculation"},
    "sequence": {"batch", "cache", "constraint", "drafting", "errors", "request", "speculation"},
    "plan": {"sequence"},
    "faults": {"constraint", "errors", "plan", "sequence"},
    "scheduler": {"batch", "cache", "drafting", "plan", "sequence"},
    "packing": {"batch", "cache", "constraint", "plan", "sequence"},
    "weights": {"_native", "config", "errors", "gguf_file", "kept_file", "parent"},
    "models": {"_native", "batch", "config", "errors", "weights"},
    "runner": {"batch", "constraint", "request"},
    "draft_model": {
        "cache",
        "config",
        "drafting",
        "models",
        "packing",
        "plan",
        "runner",
        "sequence",
    },
    "messages": {"config", "constraint", "models", "request"},
    "counts": {"messages", "plan", "sequence"},
    "engine": {
        "batch",
        "cache",
        "config",
        "constraint",
        "counts",
        "draft_model",
        "drafting",
        "errors",
        "faults",
        "messages",
        "models",
        "packing",
        "plan",
        "request",
        "runner",
        "scheduler",
        "sequence",
    },
    "persistence": {"_native", "cache", "config", "kept_file", "models"},
    "engine_process": {
        "config",
        "constraint",
        "engine",
        "errors",
        "log_format",
        "messages",
        "parent",
        "persistence",
        "spare_memory",
        "wire",
    },
    "text": {"_text", "errors", "gguf_file", "request"},
    "answer": {"drafting", "errors", "request", "text"},
    "asking": {"answer", "constraint", "errors", "models", "request", "sampling_params", "text"},
    "steering": {"constraint", "errors", "request", "text"},
    "arguments": {"errors", "request", "text"},
    "request_output": {"answer", "request", "text"},
    "shared_engine": {"answer", "engine", "request"},
    "llm": {
        "answer",
        "arguments",
        "asking",
        "config",
        "constraint",
        "engine",
        "errors",
        "models",
        "progress",
        "request",
        "request_output",
        "sampling_params",
        "shared_engine",
        "steering",
        "text",
        "weights",
    },
    "chat_terminal": {"errors", "llm", "request", "text"},
    "server": {
        "answer",
        "asking",
        "config",
        "constraint",
        "errors",
        "gguf_file",
        "log_format",
        "messages",
        "models",
        "request",
        "sampling_params",
        "spare_memory",
        "text",
        "weights",
        "wire",
    },
    "top": {"errors"},
    "cli": {
        "asking",
        "chat_terminal",
        "config",
        "errors",
        "flags",
        "llm",
        "log_format",
        "request",
        "sampling_params",
        "server",
        "top",
        "weights",
    },
    "bench": {
        "_native",
        "asking",
        "batch",
        "config",
        "constraint",
        "engine",
        "errors",
        "flags",
        "models",
        "request",
        "runner",
        "text",
        "weights",
    },
    "__init__": {"errors", "llm", "request", "request_output"},
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py").removesuffix(".pyi")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            module = names[1] if node.module == "legato" else node.module
            if node.module == "legato":
                rooms |= {name.split(".")[1] for name in names[1:]} - {"__version__"}
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
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED what it may import"
    extra = imported_rooms(path) - ALLOWED[room] - {room}
    assert not extra, f"{path.relative_to(SOURCE)} must not import {sorted(extra)}"


def test_every_allowance_is_used_and_none_leads_back() -> None:
    used: dict[str, set[str]] = {}
    for path in FILES:
        used.setdefault(room_of(path), set()).update(imported_rooms(path) - {room_of(path)})
    assert used == ALLOWED
    assert [*TopologicalSorter(ALLOWED).static_order()]  # raises CycleError


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
