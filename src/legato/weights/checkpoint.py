"""Opens a model's files, whichever format they have."""

from __future__ import annotations

from legato.weights.files import ModelFiles
from legato.weights.gguf import open_gguf
from legato.weights.safetensors import open_folder
from legato.weights.tensor import Checkpoint, Tensor

__all__ = ["Checkpoint", "Tensor", "open"]


def open(files: ModelFiles) -> Checkpoint:
    """Nothing is read but headers and configuration; raises ``ModelError``."""
    return open_gguf(files.path) if files.kind == "gguf" else open_folder(files.path)
