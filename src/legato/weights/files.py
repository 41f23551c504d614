"""Where a model's files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ModelFiles:
    """``path`` is a GGUF file or a Hugging Face folder; ``name`` is what the API calls the model."""

    path: Path
    kind: Literal["gguf", "hf"]
    name: str
