"""Where in its answer a model goes on, and how the answer is parted into thoughts and content.

Both are read off the prompt, so that a continuation is filed under the field that it continues.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from legato.text.continuation import Prompt
from legato.text.harmony import MARKS, HarmonySplit
from legato.text.reasoning import DEFAULT, HARMONY, Block, block_of, open_block
from legato.text.reasoning_parsers import PARSERS
from legato.text.reasoning_split import Parted, ReasoningSplit, Split, Where
from legato.text.vocabulary import Tokenizer


@dataclass(frozen=True)
class Parting:
    """The same for all answers to one prompt."""

    block: Block
    where: Where
    shown_ids: frozenset[int]  # control tokens that are marks: their text is needed
    begun: str = ""  # thoughts that were given, if the answer goes on within them

    def split(self) -> Split:
        """For one answer."""
        if self.block == HARMONY:
            return HarmonySplit(self.where)
        return ReasoningSplit(self.block, self.where, self.begun)


def parting_of(prompt: Prompt, tokenizer: Tokenizer) -> Parting | None:
    """None where nothing is to be parted."""
    return None if prompt.reasoning_parser == "none" else _parting(prompt, tokenizer)


def _parting(prompt: Prompt, tokenizer: Tokenizer) -> Parting | None:
    block = block_at(prompt)
    if block is None:
        return None
    where = state_at_seam(prompt, block)
    begun = prompt.prefill if where == "inside" else ""
    return Parting(block, where, _shown_ids(tokenizer, block), begun)


def given(prompt: Prompt, parting: Parting | None) -> Parted:
    """What the client wrote of the answer, by fields."""
    return _given(prompt, parting)[0]


def _given(prompt: Prompt, parting: Parting | None) -> tuple[Parted, bool]:
    """Also whether the content has begun."""
    if prompt.field == "reasoning_content":
        return Parted(prompt.prefill, ""), False
    if parting is None or prompt.reasoning:
        return Parted(prompt.reasoning, prompt.prefill), True
    before = replace(prompt, text=prompt.text[: prompt.seam], prefill="")
    split = replace(parting, where=state_at_seam(before, parting.block), begun="").split()
    first, rest = split.push(prompt.prefill), split.finish()
    parted = Parted(first.reasoning + rest.reasoning, first.content + rest.content)
    return parted, split.is_over


def given_content(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """The client's words of the content, which may come behind thoughts of its own, parted or not."""
    return given(prompt, _parting(prompt, tokenizer)).content


def open_words(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """The end of the client's words that the model goes on with: the content, or what precedes it where it
    has not begun."""
    parted, is_over = _given(prompt, _parting(prompt, tokenizer))
    is_end = is_over and prompt.prefill.endswith(parted.content)
    return parted.content if is_end else prompt.prefill


def block_at(prompt: Prompt) -> Block | None:
    """The marks of thoughts; None where neither template nor prompt knows of any."""
    if prompt.template is None:
        return None
    if prompt.reasoning_parser in PARSERS:
        return PARSERS[prompt.reasoning_parser]
    continues = prompt.field == "reasoning_content"
    opened = open_block(prompt.text[: prompt.seam]) if continues else None
    return opened or block_of(prompt.template.sources.values()) or (DEFAULT if continues else None)


def state_at_seam(prompt: Prompt, block: Block) -> Where:
    """Where in its answer the model is when it goes on."""
    words = prompt.prefill
    if prompt.field == "reasoning_content":
        return "inside"
    header = prompt.text[: prompt.seam].rstrip()
    if header.endswith(block.opening) and block.closing not in words:
        return "inside"
    if not words.strip():
        if prompt.reasoning:
            return "closed"
        closed = re.search(re.escape(block.closing) + r"(<\|\w+\|>)?$", header)
        return "content" if closed else "start"
    opened = words.lstrip().startswith(block.opening)
    return "inside" if opened and block.closing not in words else "content"


@lru_cache(maxsize=16)
def _shown_ids(tokenizer: Tokenizer, block: Block) -> frozenset[int]:
    marks = MARKS if block == HARMONY else (block.opening, block.closing, *(block.answer or ()))
    ids = {id for mark in marks for id in tokenizer.encode(mark, add_special_tokens=False)}
    return frozenset(ids & tokenizer.special_ids)
