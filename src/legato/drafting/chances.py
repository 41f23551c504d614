"""Chances: how often a guess of one sequence is right, by how much of the text before it agrees.

They are learned from every token that comes, whether it was guessed in a step or not: what would
have been guessed is known. So guessing stops where it fails, and begins again by itself.
"""

from __future__ import annotations

PRIOR = (0.0, 0.2, 0.3, 0.6, 0.85, 0.95)
"""By the number of bits of the number of tokens that agree; the last is for all longer ones."""

PRIOR_WEIGHT = 2.0
"""Guesses that the prior counts for."""

MEMORY = 0.97
"""What one guess more leaves of the weight of the older ones."""

LONGEST = len(PRIOR) - 1


class Chances:
    """Of one sequence."""

    def __init__(self) -> None:
        self._hits = [0.0] * len(PRIOR)
        self._trials = [0.0] * len(PRIOR)

    def learn(self, agreeing: int, is_right: bool) -> None:
        """What came after ``agreeing`` equal tokens was what had come before, or not."""
        kind = min(agreeing.bit_length(), LONGEST)
        self._hits[kind] = MEMORY * self._hits[kind] + is_right
        self._trials[kind] = MEMORY * self._trials[kind] + 1.0

    def of(self, agreeing: int) -> float:
        """That the next token is right."""
        kind = min(agreeing.bit_length(), LONGEST)
        weight = self._trials[kind] + PRIOR_WEIGHT
        return (self._hits[kind] + PRIOR_WEIGHT * PRIOR[kind]) / weight
