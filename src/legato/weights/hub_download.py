"""Models of the Hugging Face hub, through ``huggingface_hub``: interrupted downloads resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from legato.errors import ModelError
from legato.weights.files import ModelFiles

PATTERNS: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "*.jinja",
    "*.safetensors",
    "*.safetensors.index.json",
)
_FOLDER: Final = re.compile(r"models--(.+?)--(.+)")


def pull(model: str, root: Path, progress: bool) -> ModelFiles:
    """The newest revision of ``model``; without a network, the one on disk. Raises ``ModelError``."""
    raise ModelError(f"{model}: not implemented")


def installed(root: Path) -> list[ModelFiles]:
    return []
