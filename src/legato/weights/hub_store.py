"""Models of the hub that are on disk: one plain folder each, complete when its record says so.

<root>/<org>/<name>/                the files of the repository's top level, as published
<root>/<org>/<name>/.legato.json    the commit and the size of each file, written last
<root>/<org>/<name>:<choice>/       one of several GGUF files
<root>/<org>/.<name>.next/          what is being fetched, until it is complete
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from legato.errors import ModelError
from legato.weights.files import ModelFiles, files_in_folder
from legato.weights.model_config import read_json

RECORD: Final = ".legato.json"
_HUB_ID: Final = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<choice>\w[\w.-]*))?")


@dataclass(frozen=True)
class HubModel:
    """``choice`` picks one of several GGUF files: ``org/name:Q4_K_M``."""

    repo: str
    choice: str | None = None

    @property
    def name(self) -> str:
        return self.repo if self.choice is None else f"{self.repo}:{self.choice}"

    def folder(self, root: Path) -> Path:
        return root / self.name


@dataclass(frozen=True)
class Record:
    """What a complete folder holds."""

    commit: str
    sizes: dict[str, int]  # by file name, bytes


def parse(model: str) -> HubModel | None:
    """None if ``model`` does not look like a hub id."""
    match = _HUB_ID.fullmatch(model)
    if match is None or match["repo"].endswith((".gguf", ".safetensors")):  # paths, misspelt
        return None
    return HubModel(match["repo"], match["choice"])


def find(model: HubModel, root: Path) -> ModelFiles | None:
    """The model, if all its files are there in full."""
    folder = model.folder(root)
    record = read_record(folder)
    if record is None or any(_size(folder / name) != n for name, n in record.sizes.items()):
        return None
    files = files_in_folder(folder)
    return ModelFiles(files.path, files.kind, model.name)


def installed(root: Path) -> list[ModelFiles]:
    found: list[ModelFiles] = []
    for record in sorted(root.glob(f"*/*/{RECORD}")):
        model = parse("/".join(record.parent.parts[-2:]))
        files = find(model, root) if model is not None else None
        if files is not None:
            found.append(files)
    return found


def read_record(folder: Path) -> Record | None:
    try:
        value = read_json(folder / RECORD)
        sizes = {str(name): int(size) for name, size in value["files"].items()}
        return Record(str(value["commit"]), sizes)
    except (ModelError, KeyError, AttributeError, TypeError, ValueError):
        return None  # absent or spoilt: the folder counts as incomplete


def write_record(folder: Path, record: Record) -> None:
    temporary = folder / (RECORD + ".part")
    value = {"commit": record.commit, "files": record.sizes}
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RECORD)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
