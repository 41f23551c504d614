"""Token healing: the first new tokens spell text that was cut inside a token.

What is left of the text is ``pending``. A token fits if it is the beginning of ``pending`` or goes
beyond it. The model chooses first: a token that fits is taken, so that an answer of its own is
retraced token by token. Where its choice does not fit, the text is none that the model would have
written, and is spelled as the tokenizer spells it (the draft), unless a token goes beyond the cut. Where
the draft itself does, it is a remembered answer's: another rule had a say there (a grammar, which refused
what was drawn), and has the same say again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from legato.batch import U32
from legato.constraint.tokens import TokenTable

KEPT = 64
"""Fits that are kept: the choices of a request ask for the same ones, each step for most of the last's."""


class Fit(NamedTuple):
    """Two masks: of the tokens that fit, and of those to choose from if the model's does not."""

    allowed: U32
    fallback: U32


@lru_cache(KEPT)
def _fit(table: TokenTable, left: bytes, draft: int | None) -> Fit:
    """For a token that begins where ``left`` is left, and was drafted as ``draft``."""
    beyond = table.extending(left)
    within = table.beginnings(left[:-1])
    allowed = table.mask(within, beyond)
    if draft is not None and len(table.token(draft)) > len(left):
        return Fit(allowed, table.mask([draft]))
    fallback = [draft] if draft is not None else within if not len(beyond) else []
    return Fit(allowed, table.mask(fallback, beyond))


class Healing:
    """``draft``: how the text is probably spelled."""

    def __init__(self, table: TokenTable, pending: bytes, draft: Sequence[int]) -> None:
        self._table = table
        self.pending = pending
        self.draft = list(draft) if self._spells(draft) else self._longest_first(pending)

    def _spells(self, draft: Sequence[int]) -> bool:
        return bool(draft) and self._table.text(draft).startswith(self.pending)

    def _longest_first(self, text: bytes) -> list[int]:
        ids: list[int] = []
        while text and (id := self._table.longest(text)) is not None:
            ids.append(id)
            text = text[len(self._table.token(id)) :]
        return ids

    def fits(self, most: int) -> list[Fit]:
        """For the next token, and for those after each token of the draft that leaves some text; at
        most ``most``."""
        return [_fit(self._table, left, id) for left, id in islice(self._steps(), most)]

    @property
    def num_steps(self) -> int:
        """Tokens that the pending text takes as it is drafted."""
        return sum(1 for _ in self._steps())

    def _steps(self) -> Iterator[tuple[bytes, int | None]]:
        """What is left of the text before each drafted token; one without a draft if there is none."""
        left = self.pending
        if not (self.draft and left):
            yield left, None
        for id in self.draft:
            if not left:
                break
            yield left, id
            left = left[len(self._table.token(id)) :]

    def accept(self, token: int) -> None:
        """``token`` was chosen."""
        self.pending = self.pending[len(self._table.token(token)) :]
        if self.draft and self.draft[0] == token:
            self.draft = self.draft[1:]
        else:
            self.draft = self._longest_first(self.pending)
