"""Lookup: what followed the last few tokens when they came before.

In prompt-lookup decoding (Saxena 2023) the tokens behind an earlier occurrence of the last n tokens
are the guess. Here the occurrence is followed from token to token, and searched only when it has
parted from the text; then the next place behind it is preferred, since a text that is edited goes
on in the same order. One dictionary entry a token; no scan.
"""

from __future__ import annotations

from legato.drafting.known import NONE, Known

MOST_PLACES = 16
"""Occurrences that are compared; what is more frequent tells little."""

BEGINNING = 8
"""A predicted text is trusted at its beginning as if so many tokens agreed."""


class Lookup:
    """In ``known``, and in the tokens that are ``push``ed behind it.

    ``known.least`` tokens must agree; up to ``most`` are compared.
    """

    def __init__(self, known: Known, most: int) -> None:
        self._known = known
        self._least = known.least
        self._most = most
        self._split = len(known.tokens)  # places up to here lie in what is known
        # The lists, as those of ``Known``, begin with its last tokens, so that looking back from a place
        # in one of the two never leads into the other.
        self._offset = max(self._split - most, 0)
        self._tokens = known.tokens[self._offset :]
        self._earlier = known.earlier[self._offset :]
        self._latest: dict[tuple[int, ...], int] = {}
        self._parted = 0  # where the place that was followed last was left
        self.at: int | None = None  # what is there is the guess for the next token
        self.agreeing = 0  # tokens before it that agree
        self._search()

    @property
    def num_known(self) -> int:
        """Tokens of the sequence, given ones included."""
        return self._offset + len(self._tokens) - self._known.num_before

    @property
    def is_in_prediction(self) -> bool:
        """The guess is the prediction's."""
        return self.at is not None and self.at < self._known.num_before

    @property
    def guess(self) -> int | None:
        """For the next token."""
        if self.at is None:
            return None
        token = self._token(self.at)
        return None if token == NONE else token

    def start(self) -> None:
        """An answer begins: the prediction is followed from its beginning."""
        if self._known.num_before:
            self.at, self.agreeing = 0, BEGINNING

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
        found = self._known.tokens[self.at : self.at + most]
        if len(found) < most:
            start = max(self.at, self._split) - self._offset
            found += self._tokens[start : start + most - len(found)]
        if self.at >= self._known.num_before:
            circle = found[:]
            while len(found) < most:
                found += circle[: most - len(found)]
        return found[: found.index(NONE)] if NONE in found else found

    def _token(self, place: int) -> int:
        """The one behind it."""
        offset = self._offset
        return self._tokens[place - offset] if place >= offset else self._known.tokens[place]

    def _append(self, token: int) -> None:
        tokens = self._tokens
        tokens.append(token)
        earlier = 0
        if len(tokens) >= self._least:
            last = tuple(tokens[-self._least :])
            earlier = self._latest.get(last) or self._known.latest.get(last, 0)
            self._latest[last] = self._offset + len(tokens)
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
            place = self._before(place)

    def _before(self, place: int) -> int:
        """Where the same last tokens came before."""
        if place > self._split:
            return self._earlier[place - 1 - self._offset]
        return self._known.earlier[place - 1]

    def _agreeing(self, place: int) -> int:
        tokens, end, count = self._tokens, len(self._tokens), 0
        others, other_end = self._known.tokens, place
        if place > self._split:
            others, other_end = tokens, place - self._offset
        most = min(self._most, place)
        while count < most and others[other_end - 1 - count] == tokens[end - 1 - count]:
            count += 1
        return count
