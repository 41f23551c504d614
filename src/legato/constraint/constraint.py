"""Constraint: what the next tokens of one sequence may be, and which of them are known already.

Three things take turns: cut text that must be spelled first (``healing``), a reasoning block that
may have to be closed (``thinking``), a grammar that the content follows (``grammar``).

Tokens that are known, or likely, are a *draft*: they are computed as one chunk with the token before
them, and each row's own choice decides how many of them stand (as in speculative decoding, Leviathan
et al. 2023). A row's numbers depend on that row alone, so a draft changes the speed only.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from legato.batch import U32
from legato.constraint.healing import Fit, Healing
from legato.constraint.thinking import UNLIMITED, Place, Thoughts
from legato.constraint.tokens import TokenTable
from legato.request import Request

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar

MAX_DRAFT = 16
"""Tokens; most of a grammar's forced text is shorter."""


@dataclass(slots=True, frozen=True)
class Rules:
    """For a step's rows: of the next token, and of those after each token of the draft."""

    forced: list[int]  # the token that a row must take; rows beyond choose
    fits: list[Fit]  # what the row's token must fit; rows beyond are free
    grammar: Grammar | None  # gives the masks of the rows from ``first_ruled`` on
    first_ruled: int = 0
    beside: U32 | None = None  # tokens which the first of these rows may take besides


class Constraint:
    """Of one choice. ``grammar`` has been fed what was given of the content."""

    def __init__(self, table: TokenTable, request: Request, grammar: Grammar | None) -> None:
        self._table = table
        self._healing: Healing | None = None
        if request.pending:
            self._healing = Healing(table, request.pending, request.draft_token_ids)
        self._thoughts = Thoughts(request.thinking) if request.thinking is not None else None
        self.grammar = grammar
        self._grammar_alone = Rules([], [], grammar)

    @property
    def is_over(self) -> bool:
        """Nothing is constrained any more."""
        return self._healing is None and self.grammar is None and not self._is_thinking

    def heals_after(self, drafted: int) -> bool:
        """Behind so many tokens of the draft, the next one begins within text that was given."""
        return self._healing is not None and self._healing.num_steps > drafted

    @property
    def grammar_alone(self) -> Rules | None:
        """The rules of a step without a draft, if they are the grammar's and nothing else's."""
        if self.grammar is None or self._healing is not None or self._is_thinking:
            return None
        return self._grammar_alone

    @property
    def is_finished(self) -> bool:
        """The grammar allows no further token."""
        if self.grammar is None or self._healing is not None or self._is_thinking:
            return False
        return self.grammar.is_finished

    @property
    def _is_thinking(self) -> bool:
        return self._thoughts is not None and self._thoughts.place is not Place.CONTENT

    def draft(self, most: int, *, guesses: bool = True) -> list[int]:
        """Up to ``most`` tokens that are likely to come next. Those of healing and thoughts nearly
        always stand; those of a grammar are guesses, half of which do."""
        if self._healing is not None:
            draft = self._healing.draft[:most]
            # What follows the given text may have to be the closing mark: it is not chosen with it.
            ends_here = (
                self._is_thinking and self._thoughts is not None and self._thoughts.is_limited
            )
            return draft[:-1] if ends_here else draft
        if self._thoughts is not None and self._is_thinking:
            return self._thoughts.forced[:most]
        if self.grammar is None or not guesses:
            return []
        return self.grammar.draft(min(most, MAX_DRAFT))

    @property
    def most_guesses(self) -> int:
        """How many tokens, whatever they are, may be guessed where ``draft`` knows none: no rule may
        begin or end among them, but that of the grammar."""
        if self._healing is not None:
            return 0
        if self._thoughts is None or not self._is_thinking:
            return UNLIMITED
        return 0 if self.grammar is not None else self._thoughts.most_free

    def rules(self, draft: Sequence[int]) -> Rules:
        """``draft``: the beginning of what ``draft()`` gave."""
        rows = len(draft) + 1
        if self._thoughts is None or not self._is_thinking:
            if self._healing is None:
                return self._grammar_alone
            return Rules([], self._healing.fits(rows), self.grammar)
        if self._healing is not None:
            return Rules([], self._healing.fits(rows), None)
        if self._thoughts.forced:
            return self._closing(self._thoughts, self._thoughts.forced[:rows], rows)
        if self._thoughts.place is Place.INSIDE:
            return Rules([], [], None)
        if self.grammar is None:
            return Rules([], [], None)
        beside = self._beside(self._thoughts)
        if self._thoughts.is_opening:
            return Rules([], [Fit(beside, beside)], None)
        return Rules([], [], self.grammar, beside=beside)

    def _closing(self, thoughts: Thoughts, forced: list[int], rows: int) -> Rules:
        """Of the rows that must close the block; one behind them is ruled as if they had come."""
        if self.grammar is None or len(forced) == rows:
            return Rules(forced, [], None)
        closed = copy(thoughts)
        for token in forced:
            closed.accept(self._table.token(token))
        return Rules(forced, [], self.grammar, len(forced), self._beside(closed))

    def _beside(self, thoughts: Thoughts) -> U32:
        """The opening mark, or newlines behind the closing one."""
        if thoughts.place is Place.START:
            left = thoughts.opening_left
            return self._table.mask(
                [id for end in range(1, len(left) + 1) for id in self._named(left[:end])]
            )
        breaks = self._table.equal(b"\n") + self._table.equal(b"\n\n")
        return self._table.mask(breaks if thoughts.may_break else [])

    def _named(self, text: bytes) -> list[int]:
        """Tokens that spell ``text``, control tokens too: some templates think between those."""
        controls = [id for id in self._table.special_ids if self._table.token(id) == text]
        return self._table.equal(text) + controls

    def accept(self, token: int) -> bool:
        """``token`` was chosen. Returns whether it lies wholly in text that was given."""
        is_given = False
        is_new = self._healing is None
        if self._healing is not None:
            spelled = len(self._table.token(token))
            is_given = spelled <= len(self._healing.pending)
            self._healing.accept(token)
            if not self._healing.pending:
                self._healing = None
        self._follow(token, is_new)
        return is_given

    def _follow(self, token: int, is_new: bool) -> None:
        if self._thoughts is None or not self._is_thinking:
            if self.grammar is not None:
                self.grammar.accept(token)
            return
        spelled = self._table.token(token)
        content = self._thoughts.accept(spelled, is_new=is_new)
        if self.grammar is None or not content:
            return
        if content == spelled:
            self.grammar.accept(token)
        else:
            self.grammar.feed(content)
