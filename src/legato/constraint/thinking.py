"""Thoughts: tells when a reasoning block opens and closes, and closes it when its budget is used up.

start ──opening mark──> inside ──closing mark──> after ──> content
  └──────────anything else───────────────────────────────────^
"""

from __future__ import annotations

from enum import Enum, auto

from legato.request import Thinking


class Place(Enum):
    START = auto()  # nothing was said, or a beginning of the opening mark
    INSIDE = auto()
    AFTER = auto()  # behind the closing mark, where one token of newlines belongs to nobody
    CONTENT = auto()


class Thoughts:
    """Follows one answer through its reasoning block."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._text = thinking.begun  # what may still be the beginning of a mark
        self._used = thinking.used
        self._broke = False  # a newline followed the closing mark
        self._closing: list[int] = []  # what is left of the tokens that close the block
        self.place = Place.INSIDE if thinking.is_open else Place.START
        self._close_if_spent()

    @property
    def opening_left(self) -> bytes:
        """What would complete the opening mark; only at START."""
        return self._thinking.opening[len(self._text.lstrip(b"\n")) :]

    @property
    def is_opening(self) -> bool:
        """A part of the opening mark has come."""
        return self.place is Place.START and bool(self._text.lstrip(b"\n"))

    @property
    def is_limited(self) -> bool:
        return self._thinking.budget is not None

    @property
    def forced(self) -> list[int]:
        """The tokens that must come now, because the budget is used up."""
        return self._closing

    def _close_if_spent(self) -> None:
        budget = self._thinking.budget
        if self.place is Place.INSIDE and budget is not None and self._used >= budget:
            self._closing = list(self._thinking.closing_ids)

    @property
    def most_free(self) -> int:
        """Tokens that may be guessed before the budget could close the block."""
        budget = self._thinking.budget
        if budget is None:
            return 1 << 20
        return max(budget - self._used - 1, 0) if self.place is Place.INSIDE else 0

    @property
    def may_break(self) -> bool:
        """A token of newlines may stand before the content."""
        return self.place is Place.AFTER and not self._broke

    def accept(self, spelled: bytes, *, is_new: bool = True) -> bytes:
        """A token was chosen; returns that part of it which belongs to the content.

        Not ``is_new``: it spells what was given with the request, and comes whatever the budget is.
        """
        self._used += self.place is Place.INSIDE
        is_closing = is_new and bool(self._closing)
        if is_closing:
            self._closing = self._closing[1:]
        self._text += spelled
        if self.place is Place.START:
            self._begin()
        if self.place is Place.INSIDE:
            self._look_for_end()
        if self.place is Place.AFTER:
            self._broke = self._broke or self._text.startswith(b"\n")
            self._text = self._text.lstrip(b"\n")
            # More of them are content: a grammar that allows some must be told how many have come.
            is_over = bool(self._text) or (self._broke and not self._closing)
            self.place = Place.CONTENT if is_over else Place.AFTER
        if not is_closing:
            self._close_if_spent()
        if self.place is not Place.CONTENT:
            return b""
        content, self._text = self._text, b""
        return content

    def _begin(self) -> None:
        opening, start = self._thinking.opening, self._text.lstrip(b"\n")
        if start.startswith(opening):
            self.place, self._text = Place.INSIDE, start.removeprefix(opening)
        elif not opening.startswith(start):
            self.place = Place.CONTENT

    def _look_for_end(self) -> None:
        closing = self._thinking.closing
        _, mark, behind = self._text.partition(closing)
        if mark:
            self.place, self._text = Place.AFTER, behind
        else:
            self._text = self._text[-len(closing) + 1 :] if len(closing) > 1 else b""
