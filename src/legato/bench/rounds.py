"""Percentiles of one round, and the median and spread of several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

Round = dict[str, float]
"""One round's figures by name; the name ends in the unit (``ttft_ms``, ``decode_tokens_per_s``)."""


@dataclass(frozen=True)
class Spread:
    """What several rounds gave. On a busy machine the spread says how far to trust the median."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan, math.nan)
        return cls(median(known), min(known), max(known))

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "min": self.low, "max": self.high}


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between neighbours, as numpy's default; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summarise(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Of every figure that the rounds have."""
    names = list(dict.fromkeys(name for figures in rounds for name in figures))
    return {
        name: Spread.of(figures[name] for figures in rounds if name in figures) for name in names
    }
