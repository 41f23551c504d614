"""Opens a model's files, whichever format they have."""

from __future__ import annotations

from hashlib import blake2b

from legato.kept_file import identity
from legato.weights.files import ModelFiles
from legato.weights.gguf import open_gguf
from legato.weights.safetensors import open_folder
from legato.weights.tensor import Checkpoint, Tensor

__all__ = ["Checkpoint", "Tensor", "fingerprint", "open"]


def open(files: ModelFiles) -> Checkpoint:
    """Nothing is read but headers and configuration; raises ``ModelError``."""
    return open_gguf(files.path) if files.kind == "gguf" else open_folder(files.path)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Of its weights' sizes and samples; not of when and where their files were written."""
    digest = blake2b(digest_size=16)
    for file in checkpoint.weight_files:
        _, size, _, samples = identity(file)
        digest.update(f"{size} {samples};".encode())
    return digest.hexdigest()
