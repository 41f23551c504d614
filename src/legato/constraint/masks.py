"""The token masks of one step, row by row; a grammar's are computed while the step runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from legato.batch import I32, U32
from legato.constraint.compiling import fill_masks
from legato.constraint.constraint import Rules
from legato.constraint.healing import Fit

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar

READY, FAILED = 1, 2
"""What ``MaskPlan.ready`` becomes; the native step waits for it before it samples."""


class _Late(NamedTuple):
    """What is done to a row once the grammar's bits are there."""

    row: int
    beside: U32 | None  # allowed besides
    within: U32 | None  # nothing but this
    fallback: tuple[int, U32] | None  # row, and what may be chosen there


class MaskPlan:
    """Rows are added in the order of the batch's logit rows; then ``build`` and, if there are
    ``late`` masks, ``fill``."""

    def __init__(self, words: int) -> None:
        """``words``: of 32 bits, in a mask."""
        self.index: list[int] = []  # row of the masks for each logit row; -1: any token
        self.fallback: list[int] = []
        self._words = words
        self._rows = 0
        self._known: list[tuple[int, U32]] = []
        self._jobs: list[tuple[Grammar, int, list[int]]] = []
        self._late: list[_Late] = []

    @property
    def is_late(self) -> bool:
        return bool(self._jobs)

    def add_free(self) -> None:
        """A row that may be any token."""
        self._add(-1, -1)

    def add_hard(self, mask: U32) -> None:
        """A row that is drawn under ``mask``."""
        self._add(self._new(mask), -1)

    def add_rules(self, rules: Rules, draft: Sequence[int], among: U32 | None) -> None:
        """The rows of one part, one more than its draft; ``among``: the request's allowed tokens."""
        ruled = self._rows - rules.first_ruled  # where the grammar's mask of row 0 would be
        if rules.grammar is not None:
            rest = list(draft[rules.first_ruled :])
            self._jobs.append((rules.grammar, self._rows, rest))
            self._rows += len(rest) + 1
        for number in range(len(draft) + 1):
            fit = rules.fits[number] if number < len(rules.fits) else None
            if number < len(rules.forced):
                self.add_free()
            elif rules.grammar is not None and number >= rules.first_ruled:
                beside = rules.beside if number == rules.first_ruled else None
                row = ruled + number
                if number < len(rules.spelled) and among is None:
                    self._add(row, self._new(rules.spelled[number]))
                else:
                    self._add_late(row, fit, beside, among)
            elif fit is not None:
                self._add(self._new(_both(fit.allowed, among)), self._new(fit.fallback))
            elif among is not None:
                self.add_hard(among)
            else:
                self.add_free()

    def _add_late(self, row: int, fit: Fit | None, beside: U32 | None, among: U32 | None) -> None:
        within, fallback, choice = among, row, None
        if fit is not None:
            within, fallback = _both(fit.allowed, among), self._new(fit.fallback)
            choice = (fallback, fit.fallback)
        if within is not None or beside is not None:
            self._late.append(_Late(row, beside, within, choice))
        self._add(row, fallback)

    def _new(self, mask: U32) -> int:
        self._known.append((self._rows, mask))
        self._rows += 1
        return self._rows - 1

    def _add(self, index: int, fallback: int) -> None:
        self.index.append(index)
        self.fallback.append(fallback)

    def build(self) -> tuple[I32, I32, U32, U32]:
        """``mask_index``, ``fallback_index``, ``masks`` and ``masks_ready`` of the batch."""
        self._masks: U32 = np.zeros((self._rows, self._words), np.uint32)
        for row, mask in self._known:
            self._masks[row] = mask
        self.ready: U32 = np.zeros(1 if self.is_late else 0, np.uint32)
        return (
            np.array(self.index, np.int32),
            np.array(self.fallback, np.int32),
            self._masks,
            self.ready,
        )

    def fill(self) -> dict[Grammar, str]:
        """Computes what is late. Returns the grammars that failed, with the reason."""
        outcome = FAILED
        try:
            failed = fill_masks(self._jobs, self._masks)
            for late in self._late:
                self._complete(late)
            outcome = READY
            return {self._jobs[job][0]: reason for job, reason in failed}
        finally:
            self.ready[0] = outcome

    def _complete(self, late: _Late) -> None:
        mask = self._masks[late.row]
        if late.beside is not None:
            mask |= late.beside
        if late.fallback is not None:
            row, choice = late.fallback
            both = mask & choice
            self._masks[row] = both if both.any() else _both(mask, late.within)
        if late.within is not None:
            mask &= late.within  # the fallback's is a part of it


def _both(mask: U32, among: U32 | None) -> U32:
    return mask if among is None else mask & among
