"""Parts a growing answer into the model's thoughts and its content.

The white space that templates write beside the marks belongs to neither. Behind an opening mark of the
prompt's, all is the model's own: thoughts that are sent back go on exactly there.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from legato.text.reasoning import Block

Where = Literal["start", "inside", "closed", "content"]


class Parted(NamedTuple):
    """New text of each field."""

    reasoning: str
    content: str


class Split(Protocol):
    """One choice's. ``push`` gives what is certain, ``finish`` the rest.

    ``goes_on``: the answer was cut off, and may be continued. Then what may be a beginning of a mark is left
    out: sent back, it would be a thought, and the rest of the mark another.
    """

    reasoning_tokens: int

    @property
    def is_over(self) -> bool:
        """The content has begun, though no word of it may be there."""
        ...

    def push(self, new: str, tokens: int = 1) -> Parted: ...
    def finish(self, *, goes_on: bool = False) -> Parted: ...


class ReasoningSplit:
    """``reasoning_tokens`` are those between the marks, without the newlines that precede the closing one.

    ``begun``: thoughts that were given, if the answer goes on within them.
    """

    def __init__(self, block: Block, where: Where, begun: str = "") -> None:
        self.reasoning_tokens = 0
        self._block = block
        self._where: Where = where
        self._text = begun[_certain(begun, block.closing) :]  # held back
        self._given = len(self._text)  # characters of it that are not the answer's
        self._has_thoughts = bool(begun)
        self._held_tokens = 0
        self._fresh = False  # the opening mark has just come
        self._wrapping = None if block.answer is None else _Wrapping(*block.answer)

    @property
    def is_over(self) -> bool:
        return self._where in ("closed", "content")

    def push(self, new: str, tokens: int = 1) -> Parted:
        """``new`` is the text of the next ``tokens``."""
        if self._where == "content":
            return Parted("", self._unwrapped(new, final=False))
        self._text += new
        was_inside = self._where == "inside"
        parted = self._step(final=False)
        self._count(tokens, was_inside)
        return parted

    def finish(self, *, goes_on: bool = False) -> Parted:
        if goes_on:
            return Parted(self._first_newlines(), "")
        parted = self._step(final=True)
        self._count(0, self._where == "inside")
        return parted

    def _first_newlines(self) -> str:
        """All that is held of thoughts that have just begun: without them there would be nothing to go on from."""
        if self._where != "inside" or self._has_thoughts:
            return ""
        return self._text[: len(self._text) - len(self._text.lstrip("\n"))]

    def _count(self, tokens: int, was_inside: bool) -> None:
        """Tokens that may be the closing mark's do not count until they turn out not to be."""
        if not was_inside or self._where != "inside":
            self._held_tokens = 0
            return
        self._held_tokens += tokens
        if not self._text:
            self.reasoning_tokens += self._held_tokens
            self._held_tokens = 0

    def _step(self, *, final: bool) -> Parted:
        thoughts = content = ""
        if self._where == "start":
            self._begin(final)
        if self._where == "inside":
            thoughts = self._inside(final)
            self._has_thoughts = self._has_thoughts or bool(thoughts)
        if self._where == "closed":
            self._text = self._text.lstrip("\n")
            self._where = "content" if self._text else "closed"
        if self._where == "content":
            content, self._text = self._text, ""
        return Parted(thoughts, self._unwrapped(content, final))

    def _begin(self, final: bool) -> None:
        """An answer that does not open a block at once has none."""
        start = self._text.lstrip()
        opening = self._block.opening
        if start.startswith(opening):
            self._text, self._where = start.removeprefix(opening), "inside"
            self._fresh = True
        elif final or not opening.startswith(start):
            self._where = "content"

    def _inside(self, final: bool) -> str:
        if self._fresh:
            if not self._text and not final:
                return ""
            self._text, self._fresh = self._text.removeprefix(self._block.inside), False
        thoughts, closing, rest = self._text.partition(self._block.closing)
        if closing:
            self._text, self._where = rest, "closed"
            return thoughts.rstrip("\n")[self._given :]
        return self._give(self._block.closing, final)

    def _give(self, mark: str, final: bool) -> str:
        """The held text but for its end that may be newlines before, or a beginning of, ``mark``."""
        keep = len(self._text) if final else _certain(self._text, mark)
        new, self._text = self._text[self._given : keep], self._text[keep:]
        self._given = max(self._given - keep, 0)
        return new

    def _unwrapped(self, content: str, final: bool) -> str:
        return content if self._wrapping is None else self._wrapping.push(content, final)


class _Wrapping:
    """Takes the marks off a content that stands between two of its own."""

    def __init__(self, opening: str, closing: str) -> None:
        self._opening, self._closing = opening, closing
        self._text = ""
        self._where: Literal["before", "inside", "behind"] = "before"

    def push(self, new: str, final: bool) -> str:
        self._text += new
        if self._where == "before" and not self._begin(final):
            return ""
        if self._where == "behind":
            return ""
        content, closing, _ = self._text.partition(self._closing)
        if closing:
            self._where = "behind"
            return content.rstrip("\n")
        keep = len(content) if final else _certain(content, self._closing)
        content, self._text = content[:keep], content[keep:]
        return content

    def _begin(self, final: bool) -> bool:
        start = self._text.lstrip("\n")
        if start.startswith(self._opening):
            self._text = start.removeprefix(self._opening).lstrip("\n")
            if not self._text:
                self._opening = ""  # newlines behind the mark are still to be dropped
                return False
        elif not final and self._opening.startswith(start):
            return False
        self._where = "inside"
        return True


def _certain(text: str, mark: str) -> int:
    """Up to where ``text`` cannot be newlines before, or a beginning of, ``mark``."""
    cut = len(text)
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            cut -= length
            break
    return len(text[:cut].rstrip("\n"))
