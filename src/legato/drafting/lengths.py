"""How far a draft model guesses: what a guess costs and how often it is right decide.

With the chance c that one more guess is right, k guesses bring c + c^2 + ... + c^k tokens (Leviathan et al.
2023), each for a row of the model's step and a round of the draft model.
"""

from __future__ import annotations

from collections.abc import Sequence

PRIOR = 0.7
EARLY = 4
"""Guesses that the prior counts for."""

NEWEST = 0.03
"""Least weight of the newest guess."""

RETURN = 0.0005
"""How far a step without guesses goes back to the prior: in the end it is tried again."""

WORTH = 1.05
"""So many times faster guessing must seem to be."""


class Acceptance:
    """How often guesses are right. ``chance``: what they are like elsewhere."""

    def __init__(self, chance: float = PRIOR) -> None:
        self.chance = chance
        self._tried = EARLY

    def learn(self, right: int, *, failed: bool) -> None:
        """So many guesses in a row were right, and, if ``failed``, the next one was not."""
        for is_right in [True] * right + [False] * failed:
            self._tried += 1
            self.chance += max(1 / self._tried, NEWEST) * (is_right - self.chance)

    def rest(self) -> None:
        """Nothing was guessed in a step."""
        self.chance += RETURN * (PRIOR - self.chance)


def best_length(
    chances: Sequence[float], decoding: int, row: float, draft_round: float, most: int
) -> int:
    """Guesses for each of the sequences with these ``chances``, among ``decoding`` that decode.

    ``row``, ``draft_round``: what they cost, in steps without guesses. 0: none pays.
    """
    best, best_rate = 0, WORTH * decoding
    tokens, time = float(decoding), 1.0
    for length in range(1, most + 1):
        tokens += sum(chance**length for chance in chances)
        time += len(chances) * row + draft_round
        if tokens / time > best_rate:
            best, best_rate = length, tokens / time
    return best
