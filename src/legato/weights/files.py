"""Where a model's files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from legato.errors import ModelError


@dataclass(frozen=True)
class ModelFiles:
    """``path`` is a GGUF file or a Hugging Face folder; ``name`` is what the API calls the model."""

    path: Path
    kind: Literal["gguf", "hf"]
    name: str


def local_files(path: Path) -> ModelFiles:
    """A GGUF file, a Hugging Face folder, or a folder that holds one GGUF file."""
    if path.is_file():
        return ModelFiles(path, "gguf", path.stem)
    return files_in_folder(path)


def files_in_folder(folder: Path) -> ModelFiles:
    if (folder / "config.json").exists():
        return ModelFiles(folder, "hf", folder.resolve().name)
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise ModelError(
            f"{folder}: expected a folder with a config.json or one GGUF file, "
            f"found {len(found)} GGUF files"
        )
    return ModelFiles(found[0], "gguf", found[0].stem)
