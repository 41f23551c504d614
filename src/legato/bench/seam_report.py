"""What ``legato bench seam`` prints, and what it writes as JSON."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """Continuations of an answer just given, one at a time, and the decode steps of the answers."""

    steps: list[float] = field(default_factory=list)  # seconds, one for each answer
    ttft: list[float] = field(default_factory=list)
    recomputed: list[int] = field(default_factory=list)  # tokens

    def add(self, reply: Reply) -> None:
        self.ttft.append(reply.ttft)
        if reply.recomputed is not None:
            self.recomputed.append(reply.recomputed)

    @property
    def limit(self) -> float:
        """Seconds that a first token may take."""
        return ALLOWED_STEPS * Spread.of(self.steps).median + ALLOWED_SECONDS

    def as_json(self) -> dict[str, Any]:
        return {
            "decode_step_ms": _milliseconds(self.steps).as_json(),
            "ttft_ms": _milliseconds(self.ttft).as_json(),
            "ttft_limit_ms": self.limit * 1e3,
            "ttft_within_limit": sum(ttft < self.limit for ttft in self.ttft),
            "recomputed_tokens": Spread.of(self.recomputed).as_json(),
            "recomputed_at_most_a_block": sum(tokens <= BLOCK for tokens in self.recomputed),
            "continuations": len(self.ttft),
        }

    def show(self, console: Console) -> None:
        if not self.ttft:
            return
        of = f"of {len(self.ttft)}"
        met = sum(ttft < self.limit for ttft in self.ttft)
        console.print(
            f"continuing an answer just given, {len(self.ttft)} times: "
            f"first text after {_shown(_milliseconds(self.ttft))} ms, "
            f"a decode step is {_shown(_milliseconds(self.steps))} ms; "
            f"{met} {of} within {ALLOWED_STEPS} steps + {ALLOWED_SECONDS * 1e3:.0f} ms "
            f"({number(self.limit * 1e3)} ms)",
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
