"""How templates mark the model's reasoning, as far as the beginning of an answer needs to know."""

from __future__ import annotations

from typing import Final

# Opening and closing marks, as they stand in prompts.
MARKS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("<judge>", "</judge>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)


def open_block(header: str) -> str | None:
    """The mark that would close the reasoning block which ``header`` ends in; None if it ends in none."""
    tail = header.rstrip()
    return next((closing for opening, closing in MARKS if tail.endswith(opening)), None)


def has_closing(text: str) -> bool:
    """Whether a reasoning block is closed somewhere in ``text``."""
    return any(closing in text for _, closing in MARKS)
