"""How much of a predicted text came true, as OpenAI's usage reports it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from legato.drafting.known import Known
from legato.drafting.lookup import Lookup
from legato.request import Request

LEAST, MOST = 2, 5
"""As in ``Lookup``. What was guessed in a step, and how far, depends on the clock; this does not."""


class PredictionCount:
    """Of one answer. ``known``: the prediction, and the answer's tokens that came with the request."""

    def __init__(self, known: Known) -> None:
        self._lookup = Lookup(known, MOST)
        if not self._lookup.num_known:
            self._lookup.start()
        self.found = 0

    def push(self, tokens: Iterable[int]) -> None:
        """They came."""
        lookup = self._lookup
        for token in tokens:
            self.found += lookup.is_in_prediction and lookup.guess == token
            lookup.push(token)


class Predictions:
    """Of the choices of a request, which may have no prediction.

    An index of a long prediction takes a while to make, so that is put off until something comes.
    """

    def __init__(self, request: Request) -> None:
        self._length = len(request.prediction_token_ids)
        self._request = request
        self._counts: dict[int, PredictionCount] = {}  # by choice

    @cached_property
    def _known(self) -> Known:
        request = self._request
        return Known(LEAST, request.prediction_token_ids, request.output_token_ids)

    def push(self, index: int, tokens: Sequence[int]) -> None:
        """They came for choice ``index``."""
        if not self._length or not tokens:
            return
        if index not in self._counts:
            self._counts[index] = PredictionCount(self._known)
        self._counts[index].push(tokens)

    @property
    def counts(self) -> tuple[int, int] | None:
        """Tokens of the prediction that came in the answers, and the others, of all choices; None
        without a prediction."""
        if not self._length:
            return None
        accepted = sum(min(count.found, self._length) for count in self._counts.values())
        return accepted, self._request.params.n * self._length - accepted
