"""The race as a table and as plots, from its JSON.

python benchmarks/race_report.py bench-results/race.json [--plots DIR]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from columns import COLUMNS, Column
from fidelity import table as quality_table
from plots import Bar, Dot, Panel, write_bars, write_dots

from legato.bench.report import number
from legato.bench.rounds import Spread

OURS = "Legato"


def publish(reports: Sequence[Path], plots: Path) -> None:
    """Prints the table as markdown, and writes ``race.svg`` and ``quality.svg`` into the folder."""
    content = merged([json.loads(report.read_text(encoding="utf-8")) for report in reports])
    print(table(content))
    print(verdicts(content))
    if content["quality"]:
        print(f"\n{quality_table(content['quality'])}")
    busy = ", ".join(number(value) for value in content["noise"])
    print(f"\nprocessors busy with anything else, by round (0 is a quiet machine): {busy}")
    for name, values in content.get("barriers", {}).items():
        print(
            f"two threads met within, ns, after each column: {name}: {_spread(Spread.of(values))}"
        )
    for name, reason in content["absent"].items():
        print(f"not measured: {name}: {reason}")
    write_bars(plots / "race.svg", [_panel(content, column) for column in _columns(content)])
    if content["quality"]:
        write_dots(plots / "quality.svg", _quality_panels(content))
    print(f"written: {', '.join(map(str, reports))}, {plots}/*.svg")


def merged(races: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first race with the others' contestants, or with fidelity.py's quality; what the first has
    stays as it is."""
    content = races[0]
    for other in races[1:]:
        for part in ("figures", "memory_mib", "quality", "absent", "barriers"):
            content[part] = content.get(part, {}) | {
                name: found
                for name, found in other.get(part, {}).items()
                if name not in content.get(part, {})
            }
        content["noise"] = [*content["noise"], *other.get("noise", [])]
    return content


def table(content: dict[str, Any]) -> str:
    """Markdown: a row for each contestant; median (smallest..largest round)."""
    columns = _columns(content)
    lines = [
        "| | " + " | ".join(f"{c.title}, {c.unit}" for c in columns) + " | memory, MiB |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for name, found in content["figures"].items():
        cells = [_cell(found.get(column.key)) for column in columns]
        cells.append(number(content["memory_mib"].get(name, math.nan)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(content: dict[str, Any]) -> str:
    """Markdown: each column's best of ours over the best peer, round by round, beside the target."""
    lines = ["", "| | ours | best peer | ratio | target | |", "|---|---|---|---|---|---|"]
    for column in _columns(content):
        ours, theirs = _best(content, column, True), _best(content, column, False)
        if ours is None:
            continue
        ratio = _ratio(content, column, ours, theirs) if theirs else Spread.of([])
        lines.append(
            f"| {column.title} | {ours} | {theirs or '-'} | {_spread(ratio, 'x')} | "
            f"{_target(column)} | {_verdict(content, column, ours, ratio)} |"
        )
    return "\n".join(lines)


def _columns(content: dict[str, Any]) -> list[Column]:
    return [COLUMNS[key] for key in content["columns"]]


def _best(content: dict[str, Any], column: Column, ours: bool) -> str | None:
    """The contestant with the best median."""
    known = {
        name: found[column.key]["median"]
        for name, found in content["figures"].items()
        if column.key in found and name.startswith(OURS) == ours
    }
    pick = min if column.lower_is_better else max
    return pick(known, key=known.__getitem__) if known else None


def _ratio(content: dict[str, Any], column: Column, ours: str, theirs: str) -> Spread:
    """Of the rounds' own ratios: what drifts hits both of a round."""
    mine, other = (content["figures"][name][column.key]["rounds"] for name in (ours, theirs))
    return Spread.of(column.better(a, b) for a, b in zip(mine, other, strict=False))


def _target(column: Column) -> str:
    if math.isfinite(column.limit):
        return f"<= {column.limit:g} {column.unit}"
    return f">= {column.target:g}x" if math.isfinite(column.target) else ""


def _verdict(content: dict[str, Any], column: Column, ours: str, ratio: Spread) -> str:
    if math.isfinite(column.limit):
        met = content["figures"][ours][column.key]["median"] <= column.limit
    elif math.isnan(ratio.median) or math.isnan(column.target):
        return ""
    else:
        met = ratio.median >= column.target
    return "met" if met else "**missed**"


def _panel(content: dict[str, Any], column: Column) -> Panel:
    bars = [
        Bar(name, found[column.key]["median"], found[column.key]["min"], found[column.key]["max"])
        for name, found in content["figures"].items()
        if column.key in found
    ]
    less = ", less is better" if column.lower_is_better else ""
    return Panel(f"{column.title}: {column.unit}{less}", bars=_ordered(bars, column))


def _quality_panels(content: dict[str, Any]) -> list[Panel]:
    """Speed over divergence: up is faster, left is closer to float32."""
    panels = []
    for key in ("decode", "streams"):
        dots = [
            Dot(name, quality.get("mean_kl", quality.get("mean_kl_at_least")), found[key]["median"])
            for name, quality in content["quality"].items()
            if key in (found := content["figures"].get(name, {}))
        ]
        across = "mean KL to float32, nats"
        panels.append(Panel(f"{COLUMNS[key].title}, {COLUMNS[key].unit}", across, dots=dots))
    return [panel for panel in panels if panel.dots]


def _ordered(bars: Iterable[Bar], column: Column) -> list[Bar]:
    """The best first."""
    return sorted(bars, key=lambda bar: bar.value, reverse=not column.lower_is_better)


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return _spread(Spread(found["median"], found["min"], found["max"]))


def _spread(spread: Spread, unit: str = "") -> str:
    if math.isnan(spread.median):
        return "-"
    if spread.low == spread.high:
        return f"{number(spread.median)}{unit}"
    return f"{number(spread.median)}{unit} ({number(spread.low)}..{number(spread.high)})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="+")
    parser.add_argument("--plots", type=Path, default=Path("bench-results"))
    options = parser.parse_args()
    publish(options.report, options.plots)
