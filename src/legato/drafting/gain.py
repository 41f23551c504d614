"""Gain: whether one more guessed token pays, while a step is put together.

A guess costs a row, and brings a token as often as it is right. It pays as long as that is more
tokens for the time than the step has without it.
"""

from __future__ import annotations

HARDLY = 0.97
"""A guess that must be as certain as this is none."""


class Gain:
    """Of one step. ``row``: what a row costs, in steps like this one without guesses."""

    def __init__(self, sequences: int, row: float) -> None:
        self._tokens = float(sequences)
        self._time = 1.0
        self._row = row

    @property
    def is_possible(self) -> bool:
        """Any guess pays."""
        return self._row * self._tokens < HARDLY * self._time

    def pays(self, probability: float) -> bool:
        """Whether a guess that is right so often pays; if so, it is counted."""
        if probability * self._time <= self._row * self._tokens:
            return False
        self._tokens += probability
        self._time += self._row
        return True
