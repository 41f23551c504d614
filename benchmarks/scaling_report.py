"""The curves as tables, laws and plots, from their JSON.

python benchmarks/scaling_report.py bench-results/scaling.json [--plots DIR]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laws import Law, Point
from plots import Line, Panel, write_lines

from legato.bench.report import number

OURS = "Legato"


@dataclass(frozen=True)
class View:
    """One plot: of which curve, which figure, and the powers of the law that Legato's should follow."""

    curve: str
    figure: str
    title: str
    across: str
    unit: str = "ms"
    powers: tuple[int, ...] = ()
    log_y: bool = False
    per_second: bool = False  # the figure is milliseconds; tokens a second are shown


VIEWS = (
    View("concurrency", "output_tokens_per_s", "output, tokens/s", "requests at once", "tokens/s"),
    View("concurrency", "ttft_p50_ms", "time to first token, p50, ms", "requests at once", log_y=True),
    View("concurrency", "time_per_token_p50_ms", "time per token (a step), p50, ms", "requests at once", powers=(0, 1), log_y=True),
    View("length", "decode_ms", "decode, ms per token", "tokens before", powers=(0, 1)),
    View("length", "prefill_ms", "prefill, tokens/s", "tokens of the prompt", powers=(1, 2), per_second=True),
    View("memory", "memory_mib", "memory, MiB", "sequences that ran at once", "MiB", powers=(0, 1), log_y=True),
)  # fmt: skip


def publish(reports: Sequence[Path], plots: Path) -> None:
    """Prints tables and laws as markdown; writes one SVG file for each curve that has a plot."""
    content = merged([json.loads(report.read_text(encoding="utf-8")) for report in reports])
    for name, found in content["curves"].items():
        print(f"\n## {name}\n\n{table(found)}\n")
        views = [view for view in VIEWS if view.curve == name]
        for view in views:
            for line in law_lines(view, found):
                print(line)
        if views:
            write_lines(plots / f"scaling-{name}.svg", [panel(view, found) for view in views])
    for name, reason in content["absent"].items():
        print(f"not measured: {name}: {reason}")
    print(f"\nwritten: {', '.join(map(str, reports))}, {plots}/scaling-*.svg")


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first with the others' curves; what the first has stays as it is."""
    content = reports[0]
    for other in reports[1:]:
        content["absent"] = other["absent"] | content["absent"]
        for name, found in other["curves"].items():
            content["curves"][name] = found | content["curves"].get(name, {})
    return content


def table(found: dict[str, Any]) -> str:
    """A row for each contestant and figure, a column for each level."""
    levels = list(dict.fromkeys(level for points in found.values() for level in points))
    lines = ["| | " + " | ".join(levels) + " |", "|---|" + "---|" * len(levels)]
    for name, points in found.items():
        figures = list(dict.fromkeys(f for point in points.values() for f in point))
        for figure in figures:
            cells = [number(points.get(level, {}).get(figure, float("nan"))) for level in levels]
            lines.append(f"| {name}: {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def law_lines(view: View, found: dict[str, Any]) -> list[str]:
    """What Legato's curve follows, and where it is furthest from it."""
    if not view.powers:
        return []
    lines = []
    for name in [name for name in found if name.startswith(OURS)]:
        points = points_of(found[name], view.figure)
        if len(points) <= len(view.powers):
            continue
        law = Law.fit(points, view.powers)
        place, off = max(law.breaks(points), key=lambda point: abs(point[1]))
        lines.append(
            f"{name}, {view.figure}: {law.shown('n', view.unit)}; furthest off at {place:g}: {off:+.0%}"
        )
    return lines


def panel(view: View, found: dict[str, Any]) -> Panel:
    lines = []
    for name, points in found.items():
        known = points_of(points, view.figure)
        lines.append(Line(name, [_shown(view, point) for point in known]))
    return Panel(view.title, view.across, lines=lines, log_y=view.log_y)


def points_of(points: dict[str, dict[str, float]], figure: str) -> list[Point]:
    return [(float(level), row[figure]) for level, row in points.items() if row.get(figure)]


def _shown(view: View, point: Point) -> Point:
    return (point[0], point[0] * 1e3 / point[1]) if view.per_second else point


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="+")
    parser.add_argument("--plots", type=Path, default=Path("bench-results"))
    options = parser.parse_args()
    publish(options.report, options.plots)
