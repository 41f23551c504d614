"""How much of a predicted text came true, as OpenAI's usage reports it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from legato.drafting.lookup import Lookup
from legato.request import Request

LEAST, MOST = 2, 5
"""As in ``Lookup``. What was guessed in a step, and how far, depends on the clock; this does not."""


class PredictionCount:
    """Of one answer. ``given``: its tokens that came with the request."""

    def __init__(self, prediction: Sequence[int], given: Sequence[int] = ()) -> None:
        self._length = len(prediction)
        self._lookup = Lookup(LEAST, MOST, prediction)
        self._lookup.fill(given)
        if not given:
            self._lookup.start()
        self._found = 0

    def push(self, tokens: Iterable[int]) -> None:
        """They came."""
        lookup = self._lookup
        for token in tokens:
            is_predicted = lookup.at is not None and lookup.at < lookup.num_before
            self._found += is_predicted and lookup.guess == token
            lookup.push(token)

    @property
    def accepted(self) -> int:
        """Tokens of the prediction that came in the answer."""
        return min(self._found, self._length)

    @property
    def rejected(self) -> int:
        """The others."""
        return self._length - self.accepted


class Predictions:
    """Of the choices of a request, which may have no prediction."""

    def __init__(self, request: Request) -> None:
        self._counts: list[PredictionCount] = []
        if request.prediction_token_ids:
            self._counts = [
                PredictionCount(request.prediction_token_ids, request.output_token_ids)
                for _ in range(request.params.n)
            ]

    def push(self, index: int, tokens: Iterable[int]) -> None:
        """They came for choice ``index``."""
        if self._counts:
            self._counts[index].push(tokens)

    @property
    def counts(self) -> tuple[int, int] | None:
        """Accepted and rejected tokens of all choices; None without a prediction."""
        if not self._counts:
            return None
        return sum(c.accepted for c in self._counts), sum(c.rejected for c in self._counts)
