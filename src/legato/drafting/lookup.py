"""Lookup: what followed the last few tokens when they came before.

In prompt-lookup decoding (Saxena 2023) the tokens behind an earlier occurrence of the last n tokens
are the guess. Here the occurrence is followed from token to token, and searched only when it has
parted from the text; then the next place behind it is preferred, since a text that is edited goes
on in the same order. One dictionary entry a token; no scan.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_PLACES = 16
"""Occurrences that are compared; what is more frequent tells little."""

BEGINNING = 8
"""A predicted text is trusted at its beginning as if so many tokens agreed."""

NONE = -1
"""Between texts: no token."""


class Lookup:
    """In ``prediction``, which comes first, and the tokens that are ``push``ed.

    ``least`` tokens must agree; up to ``most`` are compared.
    """

    def __init__(self, least: int, most: int, prediction: Sequence[int] = ()) -> None:
        self._least = least
        self._most = most
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, ...], int] = {}  # last tokens -> where they end
        self._earlier: list[int] = []  # by place: where the same tokens ended before; 0: nowhere
        self._parted = 0  # where the place that was followed last was left
        self.at: int | None = None  # what is there is the guess for the next token
        self.agreeing = 0  # tokens before it that agree
        for token in prediction:
            self._append(token)
        if prediction:
            self._append(NONE)
        self.num_before = len(self._tokens)  # tokens that were not pushed

    @property
    def num_pushed(self) -> int:
        return len(self._tokens) - self.num_before

    @property
    def guess(self) -> int | None:
        """For the next token."""
        if self.at is None:
            return None
        token = self._tokens[self.at]
        return None if token == NONE else token

    def start(self) -> None:
        """An answer begins: the prediction is followed from its beginning."""
        if self.num_before:
            self.at, self.agreeing = 0, BEGINNING

    def fill(self, tokens: Sequence[int]) -> None:
        """Pushes tokens that nobody asks a guess for."""
        for token in tokens:
            self._append(token)
        self._search()

    def push(self, token: int) -> None:
        """The next token has come."""
        if self.guess == token:
            assert self.at is not None
            self.at += 1
            self.agreeing += 1
        elif self.at is not None:
            self._parted = self.at
            self.at, self.agreeing = None, 0
        self._append(token)
        if self.agreeing < self._most:
            self._search()

    def ahead(self, most: int) -> list[int]:
        """Up to ``most`` guesses. At the end of the text they go on in a circle."""
        if self.at is None:
            return []
        found = self._tokens[self.at : self.at + most]
        if self.at >= self.num_before:
            circle = self._tokens[self.at :]
            while len(found) < most:
                found += circle[: most - len(found)]
        return found[: found.index(NONE)] if NONE in found else found

    def _append(self, token: int) -> None:
        tokens = self._tokens
        tokens.append(token)
        earlier = 0
        if len(tokens) >= self._least:
            key = tuple(tokens[-self._least :])
            earlier = self._latest.get(key, 0)
            self._latest[key] = len(tokens)
        self._earlier.append(earlier)

    def _search(self) -> None:
        """Follows the place where most tokens agree; of several the next behind the one that was
        left, or else the latest."""
        place = self._earlier[-1] if self._earlier else 0
        best = (self.agreeing, True, 0) if self.at is not None else (0, False, 0)
        for _ in range(MOST_PLACES):
            if not place:
                break
            is_behind = place > self._parted
            rank = (self._agreeing(place), is_behind, -place if is_behind else place)
            if place != self.at and rank > best:
                best, self.at, self.agreeing = rank, place, rank[0]
            place = self._earlier[place - 1]

    def _agreeing(self, place: int) -> int:
        tokens, end, count = self._tokens, len(self._tokens), 0
        most = min(self._most, place)
        while count < most and tokens[place - 1 - count] == tokens[end - 1 - count]:
            count += 1
        return count
