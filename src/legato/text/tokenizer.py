"""Loads the tokenizer of a model, wherever it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from legato.errors import ModelError
from legato.gguf_file import read_metadata
from legato.text.gguf_tokenizer import build_gguf_tokenizer
from legato.text.vocabulary import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]


def load_tokenizer(path: Path, metadata: dict[str, Any] | None = None) -> Tokenizer:
    """Read the tokenizer of a GGUF file or of a Hugging Face folder. Raises ``ModelError``.

    ``metadata``: the GGUF file's, if it has been read.
    """
    if path.is_dir():
        from legato.text.hf_tokenizer import load_hf_tokenizer  # as the library that it needs

        return load_hf_tokenizer(path)
    if path.is_file():
        if metadata is None:
            metadata = read_metadata(path)
        return build_gguf_tokenizer(path, metadata)
    raise ModelError(f"{path}: no such file or folder")
