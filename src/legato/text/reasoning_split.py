"""Parts a growing answer into the model's thoughts and its content.

Whether the answer begins inside a reasoning block is read off the prompt, so that a continuation is
filed under the field that it continues. The white space that models write beside the marks belongs
to neither field.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from legato.text.continuation import Prompt
from legato.text.reasoning import DEFAULT, Block, block_of, open_block
from legato.text.template import ChatTemplate

Where = Literal["start", "inside", "closed", "content"]


class Parted(NamedTuple):
    """New text of each field."""

    reasoning: str
    content: str


def state_at_seam(prompt: Prompt, block: Block) -> Where:
    """Where in its answer the model is when it goes on."""
    words = prompt.prefill
    if prompt.field == "reasoning_content":
        return "inside"
    if open_block(prompt.text[: prompt.seam]) == block and block.closing not in words:
        return "inside"
    if not words.strip():
        return "start" if not prompt.reasoning else "closed"
    opened = words.lstrip().startswith(block.opening)
    return "inside" if opened and block.closing not in words else "content"


def splitter(prompt: Prompt, template: ChatTemplate | None) -> ReasoningSplit | None:
    """For one answer to ``prompt``; None where neither template nor prompt knows of thoughts."""
    continues = prompt.field == "reasoning_content"
    block = open_block(prompt.text[: prompt.seam]) if continues else None
    if block is None and template is not None:
        block = block_of(template.sources.values())
    if block is None and not continues:
        return None
    block = block or DEFAULT
    return ReasoningSplit(block, state_at_seam(prompt, block), midway=bool(prompt.prefill))


class ReasoningSplit:
    """One choice. ``push`` gives what is certain, ``finish`` the rest."""

    def __init__(self, block: Block, where: Where, *, midway: bool = False) -> None:
        """``midway``: the answer continues text of the block, so that no white space is the mark's."""
        self._block = block
        self._where = where
        self._text = ""
        self._fresh = not midway  # nothing of the present field was given out

    def push(self, new: str) -> Parted:
        if self._where == "content":
            return Parted("", new)
        self._text += new
        return self._step(final=False)

    def whole(self, text: str) -> Parted:
        """All of an answer at once."""
        first, rest = self.push(text), self.finish()
        return Parted(first.reasoning + rest.reasoning, first.content + rest.content)

    def finish(self) -> Parted:
        return self._step(final=True)

    def _step(self, *, final: bool) -> Parted:
        thoughts = content = ""
        if self._where == "start":
            self._begin(final)
        if self._where == "inside":
            thoughts = self._inside(final)
        if self._where == "closed":
            self._text = self._text.lstrip("\n")
            self._where = "content" if self._text else "closed"
        if self._where == "content":
            content, self._text = self._text, ""
        return Parted(thoughts, content)

    def _begin(self, final: bool) -> None:
        """An answer that does not open a block at once has none."""
        start = self._text.lstrip()
        opening = self._block.opening
        if start.startswith(opening):
            self._text, self._where = start.removeprefix(opening), "inside"
        elif final or not opening.startswith(start):
            self._where = "content"

    def _inside(self, final: bool) -> str:
        if self._fresh:
            self._text = self._text.lstrip("\n")
        thoughts, closing, rest = self._text.partition(self._block.closing)
        if closing:
            self._text, self._where = rest, "closed"
            return thoughts.rstrip("\n")
        keep = len(thoughts) if final else self._certain(thoughts)
        thoughts, self._text = thoughts[:keep], thoughts[keep:]
        self._fresh = self._fresh and not thoughts
        return thoughts

    def _certain(self, text: str) -> int:
        """Up to where ``text`` cannot be newlines before, or a beginning of, the closing mark."""
        closing = self._block.closing
        cut = len(text)
        for length in range(min(len(closing) - 1, len(text)), 0, -1):
            if text.endswith(closing[:length]):
                cut -= length
                break
        return len(text[:cut].rstrip("\n"))
