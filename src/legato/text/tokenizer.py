"""Loads the tokenizer of a model, wherever it is kept."""

from __future__ import annotations

from pathlib import Path

from legato.errors import ModelError
from legato.text.gguf_tokenizer import load_gguf_tokenizer
from legato.text.hf_tokenizer import load_hf_tokenizer
from legato.text.vocabulary import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer of a GGUF file or of a Hugging Face folder. Raises ``ModelError``."""
    if path.is_dir():
        return load_hf_tokenizer(path)
    if path.is_file():
        return load_gguf_tokenizer(path)
    raise ModelError(f"{path}: no such file or folder")
