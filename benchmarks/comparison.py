"""Ours beside theirs: figures of interleaved rounds, their medians, ratios and spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from legato.bench.report import number
from legato.bench.rounds import Spread


@dataclass
class Figure:
    """One quantity. ``floor`` is a ratio to theirs if ``relative``, else a limit for ours alone."""

    name: str
    unit: str
    floor: float | None = None
    relative: bool = True
    lower_is_better: bool = False
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def add(self, ours: float, theirs: float | None = None) -> None:
        self.ours.append(ours)
        if theirs is not None:
            self.theirs.append(theirs)

    @property
    def ratio(self) -> Spread:
        """How many times better ours is, round by round: what drifts hits both of a pair."""
        pairs = zip(self.ours, self.theirs, strict=False)
        if self.lower_is_better:
            return Spread.of(theirs / ours for ours, theirs in pairs)
        return Spread.of(ours / theirs for ours, theirs in pairs)

    @property
    def met(self) -> bool | None:
        """None: there is no floor, or nothing to compare with."""
        value = self.ratio.median if self.relative else Spread.of(self.ours).median
        if self.floor is None or math.isnan(value):
            return None
        return value >= self.floor if self.relative else value < self.floor

    @property
    def goal(self) -> str:
        if self.floor is None:
            return ""
        return f">= {self.floor:g}x" if self.relative else f"< {self.floor:g} {self.unit}"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "legato": Spread.of(self.ours).as_json() | {"rounds": self.ours},
            "llama.cpp": Spread.of(self.theirs).as_json() | {"rounds": self.theirs},
            "ratio": self.ratio.as_json(),
            "floor": self.goal,
            "met": self.met,
        }


def show(title: str, figures: Sequence[Figure]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("Legato", "llama.cpp", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("floor", no_wrap=True)
    for figure in figures:
        verdict = {None: "", True: " [green]met[/]", False: " [red]NOT MET[/]"}[figure.met]
        table.add_row(
            f"{figure.name}\n[dim]{figure.unit}[/]",
            _cell(Spread.of(figure.ours)),
            _cell(Spread.of(figure.theirs)),
            _cell(figure.ratio, "x"),
            figure.goal + verdict,
        )
    Console().print(table)


def _cell(spread: Spread, unit: str = "") -> str:
    if math.isnan(spread.median):
        return "-"
    return f"{number(spread.median)}{unit}\n[dim]{number(spread.low)}..{number(spread.high)}[/]"
