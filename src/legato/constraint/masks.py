"""The token masks of one step, row by row, and which of its rows a grammar rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from legato.batch import I32, U32
from legato.constraint.constraint import Rules
from legato.constraint.ruling import Ruled


class MaskPlan:
    """Rows are added in the order of the batch's logit rows; then ``build``."""

    def __init__(self, words: int) -> None:
        """``words``: of 32 bits, in a mask."""
        self.index: list[int] = []  # row of the masks for each logit row; -1: any token
        self.fallback: list[int] = []
        self.ruled: list[Ruled] = []
        self._words = words
        self._masks: list[U32] = []

    def add_free(self) -> None:
        """A row that may be any token."""
        self._add(-1, -1)

    def add_hard(self, mask: U32 | None) -> None:
        """A row that is drawn under ``mask``, if there is one."""
        self._add(-1 if mask is None else self._new(mask), -1)

    def add_rules(self, rules: Rules, draft: Sequence[int], among: U32 | None) -> None:
        """The rows of one part, one more than its draft; ``among``: the request's allowed tokens."""
        if rules.grammar is not None:
            self.ruled.append(
                Ruled(rules, len(self.index) + rules.first_ruled, draft[rules.first_ruled :], among)
            )
        if not draft and not rules.forced and not rules.fits:
            return self.add_hard(among)
        for number in range(len(draft) + 1):
            if number < len(rules.forced):
                self.add_free()
            elif number < len(rules.fits):
                fit = rules.fits[number]
                self._add(self._new(both(fit.allowed, among)), self._new(fit.fallback))
            else:
                self.add_hard(among)

    def _new(self, mask: U32) -> int:
        self._masks.append(mask)
        return len(self._masks) - 1

    def _add(self, index: int, fallback: int) -> None:
        self.index.append(index)
        self.fallback.append(fallback)

    def build(self) -> tuple[I32, I32, U32]:
        """``mask_index``, ``fallback_index`` and ``masks`` of the batch."""
        masks = np.stack(self._masks) if self._masks else np.zeros((0, self._words), np.uint32)
        return np.array(self.index, np.int32), np.array(self.fallback, np.int32), masks


def both(mask: U32, among: U32 | None) -> U32:
    """What both allow."""
    return mask if among is None else mask & among
