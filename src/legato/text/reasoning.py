"""How templates mark the model's reasoning, as far as the beginning of an answer needs to know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class Block(NamedTuple):
    """The marks around the reasoning, and the white space that models write beside them."""

    opening: str
    closing: str
    inside: str = "\n"  # after the opening and before the closing mark
    after: str = "\n\n"
    bridge: str = ""  # what else stands right before the closing mark
    answer: tuple[str, str] | None = None  # marks around the content

    @property
    def begin(self) -> str:
        return self.opening + self.inside

    @property
    def end(self) -> str:
        return self.inside + self.bridge + self.closing + self.after


BLOCKS: Final = (
    Block("<think>", "</think>"),
    Block("<thinking>", "</thinking>"),
    Block("<thought>", "</thought>"),
    Block("<reasoning>", "</reasoning>"),
    Block("<mm:think>", "</mm:think>"),
    Block("<seed:think>", "</seed:think>"),
    Block("<judge>", "</judge>"),
    Block("[THINK]", "[/THINK]", inside="", after=""),
    Block("<|START_THINKING|>", "<|END_THINKING|>", inside="", after=""),
    Block("<|begin_of_thought|>", "<|end_of_thought|>"),
    Block("<|channel>thought", "<channel|>", after=""),
)
DEFAULT: Final = BLOCKS[0]

HARMONY: Final = Block(
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    inside="",
    after="",
    bridge="<|end|><|start|>assistant",
)
"""Messages on channels (gpt-oss): thoughts are one message, the content is another."""


def open_block(header: str) -> Block | None:
    """The reasoning block which ``header`` ends in; None if it ends in none."""
    tail = header.rstrip()
    return next((block for block in BLOCKS if tail.endswith(block.opening)), None)


def has_closing(text: str) -> bool:
    """Whether a reasoning block is closed somewhere in ``text``."""
    return any(block.closing in text for block in BLOCKS)


def block_of(sources: Iterable[str]) -> Block | None:
    """The block whose marks a template's sources hold."""
    text = "\n".join(sources)
    if HARMONY.closing in text:
        return HARMONY
    return next((block for block in BLOCKS if block.opening in text or block.closing in text), None)


def brings_block(text: str) -> bool:
    """Whether ``text`` opens a reasoning block itself, before anything else."""
    start = text.lstrip()
    return any(start.startswith(block.opening) for block in BLOCKS)


def closes(text: str, block: Block) -> bool:
    """Whether ``text``, standing inside ``block``, leaves it."""
    before, closing, _ = text.partition(block.closing)
    return bool(closing) and block.opening not in before


def without_block(header: str) -> str:
    """``header`` without an open, or an empty, reasoning block at its end."""
    tail = header.rstrip()
    for block in BLOCKS:
        if tail.endswith(block.opening):
            return tail.removesuffix(block.opening)
        before = tail.removesuffix(block.closing).rstrip()
        if before != tail and before.endswith(block.opening):
            return before.removesuffix(block.opening)
    return header
