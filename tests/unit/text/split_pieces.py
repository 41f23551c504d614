"""An answer that comes piece by piece."""

from __future__ import annotations

from random import Random
from typing import Any


def split_up(split: Any, answer: str, chance: Random, most: int) -> tuple[str, str]:
    """Reasoning and content of an answer whose pieces have up to ``most`` characters."""
    parts = []
    while answer:
        size = chance.randint(1, most)
        parts.append(split.push(answer[:size]))
        answer = answer[size:]
    parts.append(split.finish())
    return "".join(part.reasoning for part in parts), "".join(part.content for part in parts)
