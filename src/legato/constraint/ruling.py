"""A grammar's say on the tokens of a step, after they were drawn.

Most tokens of a model that was asked for JSON are allowed as they come. To ask the grammar about one
token takes a tenth of the time that naming all which may follow takes; so a row is drawn without
a mask, and only if its token must not follow is the mask made and the row drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from legato.batch import I32, U32
from legato.constraint.compiling import fill_masks
from legato.constraint.tokens import WORD_BITS

if TYPE_CHECKING:
    from legato.constraint.constraint import Rules
    from legato.constraint.grammar import Grammar

Redraw = Callable[[I32, U32], list[int]]
"""Has rows of the last step drawn again, each under its own mask. Returns their tokens."""

INCONSISTENT = "it refuses a token that it has allowed"


class Refusal(NamedTuple):
    """The first token of a part that must not follow; ``before`` are those between it and the
    grammar's state."""

    ruled: Ruled
    before: list[int]

    @property
    def row(self) -> int:
        return self.ruled.row + len(self.before)


class Ruled(NamedTuple):
    """The logit rows of one part from ``row`` on: one for the next token, and one after each token
    of ``draft``. ``among``: the request's allowed tokens."""

    rules: Rules
    row: int
    draft: Sequence[int]
    among: U32 | None

    @property
    def grammar(self) -> Grammar:
        assert self.rules.grammar is not None
        return self.rules.grammar

    def refusal(self, tokens: Sequence[int]) -> Refusal | None:
        """``tokens``: of all logit rows. Behind one that is not the drafted one, or ends the answer, none
        counts."""
        if not self.draft and self.rules.beside is None:  # the grammar will be told of the token
            token = tokens[self.row]
            return None if token < 0 or self.grammar.take(token) else Refusal(self, [])
        chosen: list[int] = []
        for ahead, token in enumerate(tokens[self.row : self.row + len(self.draft) + 1]):
            chosen.append(token)
            if self.grammar.is_end(token) or ahead >= len(self.draft) or token != self.draft[ahead]:
                break
        if min(chosen) < 0 or (self.rules.beside is not None and has(self.rules.beside, chosen[0])):
            return None
        count = self.grammar.would_accept(chosen)
        return None if count == len(chosen) else Refusal(self, chosen[:count])

    def choice(self, mask: U32, before: list[int]) -> U32:
        """Of the grammar's mask for the row behind these tokens: what to choose from there."""
        rules, number = self.rules, len(before) + self.rules.first_ruled
        if rules.beside is not None:
            mask = mask | rules.beside
        if self.among is not None:
            mask = mask & self.among
        choice = mask
        if number < len(rules.fits):
            mask = mask & rules.fits[number].allowed
            choice = mask & rules.fits[number].fallback
            choice = choice if choice.any() else mask
        spelling = self.grammar.only_spelling(choice, before)
        if spelling is None:
            return choice
        alone = np.zeros_like(mask)
        alone[spelling // WORD_BITS] = 1 << spelling % WORD_BITS
        return alone


def has(mask: U32, token: int) -> bool:
    return bool(mask[token // WORD_BITS] >> token % WORD_BITS & 1)


def settle(ruled: Sequence[Ruled], tokens: list[int], redraw: Redraw) -> dict[Grammar, str]:
    """Has every refused row drawn again, until none of ``tokens``, those of all logit rows, is refused.

    Returns the grammars that failed, with the reason.
    """
    failed: dict[Grammar, str] = {}
    drawn: set[int] = set()  # rows, under a mask
    while ruled:
        refusals = [found for one in ruled if (found := one.refusal(tokens)) is not None]
        for one in refusals:
            if one.row in drawn:  # or it has met a limit with the token that was to follow
                grammar = one.ruled.grammar
                failed.setdefault(grammar, grammar.failure or INCONSISTENT)
        refusals = [one for one in refusals if one.ruled.grammar not in failed]
        if not refusals:
            break
        drawn.update(one.row for one in refusals)
        rows = [one.row for one in refusals]
        masks, failures = _masks(refusals)
        failed |= failures
        for row, token in zip(rows, redraw(np.array(rows, np.int32), masks), strict=True):
            tokens[row] = token
        ruled = [refusal.ruled for refusal in refusals]
    return failed


def _masks(refusals: list[Refusal]) -> tuple[U32, dict[Grammar, str]]:
    """What each refused row may choose from [R, words]; the grammars that failed, with the reason."""
    ends = [*accumulate(len(one.before) + 1 for one in refusals)]
    words = refusals[0].ruled.grammar.mask_words
    room = np.empty((ends[-1], words), np.uint32)
    jobs = [
        (one.ruled.grammar, end - len(one.before) - 1, one.before)
        for one, end in zip(refusals, ends, strict=True)
    ]
    failed = {jobs[job][0]: reason for job, reason in fill_masks(jobs, room)}
    # Without drafts the masks lie where they are wanted.
    masks = room if len(ends) == len(room) else np.empty((len(ends), words), np.uint32)
    for index, (one, end) in enumerate(zip(refusals, ends, strict=True)):
        masks[index] = one.ruled.choice(room[end - 1], one.before)
    return masks, failed
