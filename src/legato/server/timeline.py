"""When what happened to an answer: for metrics, the log and traces."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from legato.answer import Answer, Piece
from legato.request import Output

if TYPE_CHECKING:
    from legato.server.metrics import Metrics


class Timeline:
    """Of one answer. Seconds of ``time.monotonic()``, which on Linux is one clock for all processes.

    ``scheduled``: its first step began; ``first``, ``last``: tokens of any choice arrived; None: not yet.
    """

    __slots__ = (
        "_latest",
        "_metrics",
        "answer",
        "arrival",
        "ended",
        "error",
        "first",
        "last",
        "scheduled",
    )

    def __init__(self, metrics: Metrics, answer: Answer, arrival: float) -> None:
        self.answer = answer
        self.arrival = arrival
        self.scheduled: float | None = None
        self.first: float | None = None
        self.last = self.ended = arrival
        self.error = ""  # the kind of what ended it before it was complete
        self._metrics = metrics
        self._latest: dict[int, float] = {}  # choice -> time of its latest token

    def heard(self, outputs: list[Output]) -> None:
        """The engine has said something."""
        if self.scheduled is None:
            for output in outputs:
                if output.scheduled_at is not None:
                    self.scheduled = output.scheduled_at

    def tokens(self, pieces: list[Piece]) -> None:
        """These have come."""
        now, total = time.monotonic(), 0
        for piece in pieces:
            count = len(piece.token_ids)
            if not count:
                continue
            total += count
            before = self._latest.get(piece.index)
            if before is not None:
                self._metrics.inter_token.observe((now - before) / count)
            self._latest[piece.index] = now
        if total:
            self._metrics.generation_tokens.inc(total)
            if self.first is None:
                self._begin(now)
            self.last = now

    def _begin(self, now: float) -> None:
        self.first = now
        self._metrics.first_token.observe(now - self.arrival)
        self._metrics.prompt_tokens.inc(len(self.answer.prompt_token_ids))

    def end(self) -> None:
        """The answer is over, whatever ended it."""
        self.ended = time.monotonic()
