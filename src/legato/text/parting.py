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

    def split(self) -> Split:
        """For one answer."""
        if self.block == HARMONY:
            return HarmonySplit(self.where)
        return ReasoningSplit(self.block, self.where)


def parting_of(prompt: Prompt, parser: str, tokenizer: Tokenizer) -> Parting | None:
    """``parser`` is the server's ``--reasoning-parser``. None where nothing is to be parted."""
    block = block_at(prompt, parser)
    if block is None:
        return None
    where = state_at_seam(prompt, block)
    return Parting(block, where, _shown_ids(tokenizer, block))


def given(prompt: Prompt, parting: Parting | None) -> Parted:
    """What the client wrote of the answer, by fields."""
    if prompt.field == "reasoning_content":
        return Parted(prompt.prefill, "")
    if parting is None or prompt.reasoning:
        return Parted(prompt.reasoning, prompt.prefill)
    before = replace(prompt, text=prompt.text[: prompt.seam], prefill="")
    split = replace(parting, where=state_at_seam(before, parting.block)).split()
    first, rest = split.push(prompt.prefill), split.finish()
    return Parted(first.reasoning + rest.reasoning, first.content + rest.content)


def given_content(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """The client's words of the content, which may come behind thoughts of its own."""
    return given(prompt, parting_of(prompt, "auto", tokenizer)).content


def block_at(prompt: Prompt, parser: str) -> Block | None:
    """The marks of thoughts; None where neither template nor prompt knows of any."""
    if parser == "none" or prompt.template is None:
        return None
    if parser in PARSERS:
        return PARSERS[parser]
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
