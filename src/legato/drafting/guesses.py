"""Guesses: the tokens that probably come next in one sequence, as many as pay."""

from __future__ import annotations

from collections.abc import Sequence

from legato.drafting.chances import Chances
from legato.drafting.gain import Gain
from legato.drafting.known import Known
from legato.drafting.lookup import Lookup
from legato.speculation import Speculation

PATIENCE = 8
"""Looks in a row that may find nothing before the next one is put off, by one step more each time."""

MOST_REST = 3
"""Steps between two looks, at most: so many tokens late is a repetition found."""


class Guesses:
    """Behind ``known``: the prompt, and output that came with the request, after a prediction (OpenAI's
    Predicted Outputs) of which much is expected to come."""

    def __init__(self, settings: Speculation, known: Known, *, has_begun: bool) -> None:
        """``has_begun``: a part of the output is among the given tokens."""
        self._most = settings.num_speculative_tokens
        self._chances = Chances()
        self._vain = 0  # looks in a row that found nothing
        self._resting = 0  # steps until the next look
        self._lookup = Lookup(known, settings.prompt_lookup_max)
        if not has_begun:
            self._lookup.start()

    @property
    def num_known(self) -> int:
        """Tokens of the sequence that were followed."""
        return self._lookup.num_known

    def follow(self, tokens: Sequence[int]) -> None:
        """These came next."""
        lookup = self._lookup
        for token in tokens:
            guess = lookup.guess
            if guess is not None:
                self._chances.learn(lookup.agreeing, guess == token)
            lookup.push(token)

    def is_due(self) -> bool:
        """Whether this step looks. Between two steps the caches are full of weights, so that each look costs
        a few percent of a small model's step: where nothing repeats itself, most are left out."""
        if self._resting:
            self._resting -= 1
            return False
        return True

    def draft(self, most: int, gain: Gain) -> list[int]:
        """Up to ``most`` guesses, as far as they pay."""
        draft = self._draft(most, gain)
        self._vain = 0 if draft else self._vain + 1
        self._resting = min(self._vain // PATIENCE, MOST_REST)
        return draft

    def _draft(self, most: int, gain: Gain) -> list[int]:
        if self._lookup.at is None:
            return []
        most = min(most, self._most)
        agreeing, probability, count = self._lookup.agreeing, 1.0, 0
        while count < most:
            probability *= self._chances.of(agreeing + count)
            if not gain.pays(probability):
                break
            count += 1
        return self._lookup.ahead(count) if count else []
