"""TokenTable: the bytes of every token, in the order of their spelling.

The engine knows no tokenizer; what constrains its tokens needs to know what they spell, and this is
all it is told.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from legato._text import order_of
from legato.batch import I32, U32
from legato.constraint.spellings import Spellings

WORD_BITS = 32
FEW = 16
"""Tokens whose bits are set one by one; many are packed."""


class TokenTable:
    """``special_ids`` are control tokens: they spell nothing. ``eos_ids`` end an answer."""

    def __init__(self, spellings: Spellings) -> None:
        self.spellings = spellings
        self.special_ids = frozenset(spellings.special_ids)
        self.eos_ids = list(spellings.eos_ids)
        self._data = spellings.data
        self._ends = array("i", spellings.ends)

    @classmethod
    def of(
        cls, tokens: Sequence[bytes], special_ids: Iterable[int], eos_ids: Iterable[int]
    ) -> TokenTable:
        return cls(Spellings.of([*tokens], special_ids, eos_ids))

    @property
    def size(self) -> int:
        """Tokens in the vocabulary."""
        return len(self._ends)

    @property
    def mask_words(self) -> int:
        """Words of 32 bits that a mask of the vocabulary has."""
        return -(-self.size // WORD_BITS)

    def token(self, id: int) -> bytes:
        return self._data[self._ends[id - 1] if id else 0 : self._ends[id]]

    def text(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self.token, ids))

    def sort(self) -> None:
        """Does what the first search would do."""
        self.extending(b" ")

    @cached_property
    def _order(self) -> array[int]:
        """Ids of the tokens that spell something, sorted by their bytes."""
        return array("i", order_of(self._data, self._ends, [*self.special_ids]))

    def extending(self, start: bytes) -> I32:
        """Ids of the tokens whose bytes begin with ``start``, which is not empty."""
        low = bisect_left(self._order, start, key=self.token)
        high = bisect_left(self._order, _after(start), low, key=self.token)
        return np.frombuffer(self._order, np.int32)[low:high]

    def equal(self, text: bytes) -> list[int]:
        """Ids of the tokens that spell exactly ``text``."""
        found: list[int] = []
        order = self._order
        for place in range(bisect_left(order, text, key=self.token), len(order)):
            if self.token(order[place]) != text:
                break
            found.append(order[place])
        return found

    def beginnings(self, text: bytes) -> list[int]:
        """Ids of the tokens that ``text`` begins with, the shortest first."""
        found: list[int] = []
        order, low, high = self._order, 0, len(self._order)
        for length in range(1, min(len(text), self._longest) + 1):
            start = text[:length]
            low = bisect_left(order, start, low, high, key=self.token)
            high = bisect_left(order, _after(start), low, high, key=self.token)
            while low < high and self.token(order[low]) == start:
                found.append(order[low])
                low += 1
            if low == high:  # no longer token begins like this
                break
        return found

    def longest(self, text: bytes) -> int | None:
        """The longest token that ``text`` begins with; None if no token fits."""
        found = self.beginnings(text)
        return next((id for id in found if self.token(id) == self.token(found[-1])), None)

    @cached_property
    def _longest(self) -> int:
        lengths = np.diff(np.frombuffer(self._ends, np.int32), prepend=0)
        return int(lengths[np.frombuffer(self._order, np.int32)].max(initial=0))

    def mask(self, *groups: I32 | list[int]) -> U32:
        """Bits of these tokens [mask_words]."""
        if sum(map(len, groups)) <= FEW:
            words = np.zeros(self.mask_words, np.uint32)
            for id in [int(id) for ids in groups for id in ids]:
                words[id // WORD_BITS] |= 1 << id % WORD_BITS
            return words
        bits = np.zeros(self.mask_words * WORD_BITS, np.uint8)
        for ids in groups:
            bits[ids] = 1
        return np.packbits(bits, bitorder="little").view(np.dtype("<u4"))


def _after(start: bytes) -> bytes:
    """The first string, in the order of bytes, that is behind all that begin with ``start``."""
    stem = start.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\xff" * (len(start) + 256)
