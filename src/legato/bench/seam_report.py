"""What ``legato bench seam`` prints, and what it writes as JSON."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from legato.bench.report import machine, number, write_json
from legato.bench.rounds import Spread
from legato.bench.seam_client import Reply
from legato.bench.seam_cuts import INSIDE, SPACE, WHOLE, Cut, Miss, Tokens

BLOCK = 16  # tokens of a cache block: more than these are not computed again
ALLOWED_STEPS, ALLOWED_SECONDS = 3, 0.005


@dataclass
class Resumed:
    """Continuations of an answer just given, one at a time, and the decode steps of the answers.

    Each is asked for several times, and the median of its first texts counts: for milliseconds at a time
    a virtual machine's processors may be somebody else's.
    """

    steps: list[float] = field(default_factory=list)  # seconds, one for each answer
    ttft: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)  # each of those that the medians are of
    recomputed: list[int] = field(default_factory=list)  # tokens

    def add(self, replies: Sequence[Reply]) -> None:
        """The same continuation, however often it was asked for."""
        if not replies:
            return
        times = [reply.ttft for reply in replies]
        self.ttft.append(median(times))
        self.single += times
        if None not in (recomputed := [reply.recomputed for reply in replies]):
            self.recomputed.append(max(tokens for tokens in recomputed if tokens is not None))

    @property
    def limit(self) -> float:
        """Seconds that a first token may take."""
        return ALLOWED_STEPS * Spread.of(self.steps).median + ALLOWED_SECONDS

    def _within(self, times: Sequence[float]) -> int:
        return sum(ttft < self.limit for ttft in times)

    def as_json(self) -> dict[str, Any]:
        return {
            "decode_step_ms": _milliseconds(self.steps).as_json(),
            "ttft_ms": _milliseconds(self.ttft).as_json(),
            "ttft_limit_ms": self.limit * 1e3,
            "ttft_within_limit": self._within(self.ttft),
            "single_ttft_ms": _milliseconds(self.single).as_json(),
            "single_ttft_within_limit": self._within(self.single),
            "single_continuations": len(self.single),
            "recomputed_tokens": Spread.of(self.recomputed).as_json(),
            "recomputed_at_most_a_block": sum(tokens <= BLOCK for tokens in self.recomputed),
            "continuations": len(self.ttft),
        }

    def show(self, console: Console) -> None:
        if not self.ttft:
            return
        of = f"of {len(self.ttft)}"
        console.print(
            f"continuing an answer just given in {len(self.ttft)} places: "
            f"first text after {_shown(_milliseconds(self.ttft))} ms, "
            f"a decode step is {_shown(_milliseconds(self.steps))} ms; "
            f"{self._within(self.ttft)} {of} within {ALLOWED_STEPS} steps + "
            f"{ALLOWED_SECONDS * 1e3:.0f} ms ({number(self.limit * 1e3)} ms), "
            f"and {self._within(self.single)} of all {len(self.single)} that these are medians of",
            soft_wrap=True,
        )
        if self.recomputed:
            few = sum(tokens <= BLOCK for tokens in self.recomputed)
            console.print(
                f"prompt tokens computed again: {_shown(Spread.of(self.recomputed))}; "
                f"{few} {of} at most a block of {BLOCK}",
                soft_wrap=True,
            )


def publish(
    arguments: argparse.Namespace,
    model: str,
    cuts: Sequence[Cut],
    misses: Sequence[Miss],
    resumed: Resumed,
) -> None:
    """Tables for people; with ``--json``, everything for machines."""
    console = Console()
    console.print(_title(arguments, model), soft_wrap=True)
    console.print(_table(cuts))
    odd = sum(
        not answer.is_canonical
        for answer in {cut.answer.number: cut.answer for cut in cuts}.values()
    )
    console.print(f"answers whose own tokens are not the tokenizer's for their text: {odd}")
    resumed.show(console)
    for miss in misses[: arguments.misses]:
        console.print(_line(miss), soft_wrap=True)
    for cause, times in Counter(miss.cause for miss in misses).most_common():
        console.print(f"{times} misses: {cause}")
    if arguments.json:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json", "api_key")}
        write_json(
            arguments.json,
            {
                "command": "seam",
                "settings": settings | {"model": model},
                "machine": machine(),
                "summary": {"cuts": shares(cuts), "resumed": resumed.as_json()},
                "misses": [miss.as_json() for miss in misses],
            },
        )


def shares(cuts: Sequence[Cut]) -> dict[str, dict[str, float]]:
    """By kind of cut: how many, how many exact, and their share (0 to 1)."""
    found = {}
    for kind in ("all", WHOLE, INSIDE, SPACE):
        chosen = [c for c in cuts if kind == "all" or kind in c.answer.kinds(c.place)]
        exact = sum(cut.exact for cut in chosen)
        share = exact / len(chosen) if chosen else float("nan")
        found[kind] = {"cuts": len(chosen), "exact": exact, "share": share}
    return found


def _title(arguments: argparse.Namespace, model: str) -> str:
    mode = "greedy" if arguments.temperature == 0 else f"temperature {arguments.temperature:g}"
    cold = ", cold" if arguments.cold else ""
    return f"exact continuations: {arguments.kind}, {model}, {arguments.endpoint}, {mode}{cold}"


def _table(cuts: Sequence[Cut]) -> Table:
    table = Table()
    table.add_column("cut")
    for name in ("cuts", "exact", "share"):
        table.add_column(name, justify="right")
    for kind, found in shares(cuts).items():
        share = f"{found['share'] * 100:.2f} %" if found["cuts"] else "-"
        table.add_row(kind, f"{found['cuts']}", f"{found['exact']}", share)
    return table


def _line(miss: Miss) -> str:
    where = f"question {miss.question + 1}, cut at {miss.place} ({', '.join(miss.kinds)})"
    if miss.error:
        return escape(f"{where}: {miss.error}")
    line = (
        f"{where}: {miss.before!r} | {miss.rest!r}, got {miss.reply!r}: "
        f"differs from character {miss.differs_after}; {miss.cause}"
    )
    if miss.answer_tokens:
        given, new = _tokens(miss.given_tokens), _tokens(miss.reply_tokens)
        line += f"; tokens {_tokens(miss.answer_tokens)}, got {given} | {new}"
    return escape(line)


def _tokens(tokens: Tokens) -> str:
    return " ".join(f"{token}{text!r}" for token, text in tokens)


def _milliseconds(seconds: Sequence[float]) -> Spread:
    return Spread.of(value * 1e3 for value in seconds)


def _shown(spread: Spread) -> str:
    return f"{number(spread.median)} ({number(spread.low)}..{number(spread.high)})"
