"""Plots as SVG files, written directly: bars for a race, lines for how cost grows.

The ground is transparent and the ink follows the reader's colour scheme, so that a page may be light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from legato.bench.report import number

Point = tuple[float, float]
COLOURS = {
    "Legato": "#d9480f",
    "llama.cpp": "#2f9e44",
    "vLLM": "#1c7ed6",
    "OpenVINO GenAI": "#9c36b5",
}
OTHER_COLOURS = ("#e8590c", "#1098ad", "#f08c00", "#868e96")
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .small { font-size: 10.5px; fill: #59636e }
.title { font-weight: 600 } .axis { stroke: #59636e; stroke-width: 1 } .grid { stroke: #59636e; stroke-opacity: .22 }
.spread { stroke: #1f2328; stroke-width: 1.2; stroke-opacity: .65 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .small { fill: #9198a1 } .axis, .grid { stroke: #9198a1 }
.spread { stroke: #e6edf3 } }
</style>"""


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    label: str
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    label: str
    x: float
    y: float


@dataclass
class Panel:
    """One pair of axes, or one group of bars."""

    title: str
    across: str = ""  # what the horizontal axis counts
    bars: list[Bar] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    log_y: bool = False


def colour(label: str) -> str:
    """An engine has one colour in every plot; its formats and settings share it."""
    for name, found in COLOURS.items():
        if label.startswith(name):
            return found
    return OTHER_COLOURS[sum(map(ord, label)) % len(OTHER_COLOURS)]


def write_bars(path: Path, panels: Sequence[Panel]) -> None:
    """Panels below each other, each with its own scale from 0; whiskers are the smallest and largest round."""
    width, left, row, parts, top = 720, 170, 19, [], 8
    for panel in panels:
        longest = max((bar.high for bar in panel.bars), default=1.0) or 1.0
        scale = (width - left - 70) / longest
        parts.append(_text(left, top + 14, panel.title, "title"))
        top += 22
        for bar in panel.bars:
            parts += _bar(bar, left, top, row, scale)
            top += row
        top += 16
    _write(path, width, top, parts)


def _bar(bar: Bar, left: float, top: float, row: float, scale: float) -> list[str]:
    middle, end = top + row / 2, left + bar.value * scale
    parts = [
        _text(left - 6, middle + 4, bar.label, anchor="end"),
        f'<rect x="{left}" y="{top + 3:.1f}" width="{bar.value * scale:.1f}" height="{row - 6}" rx="2" '
        f'fill="{colour(bar.label)}"/>',
        _text(left + bar.high * scale + 6, middle + 4, number(bar.value), "small"),
    ]
    if bar.high > bar.low:
        low, high = left + bar.low * scale, left + bar.high * scale
        parts.append(_line(low, middle, high, middle, "spread"))
        parts += [_line(x, middle - 3, x, middle + 3, "spread") for x in (low, high)]
    return parts if math.isfinite(end) else parts[:1]


def write_lines(path: Path, panels: Sequence[Panel]) -> None:
    """Two panels a row; the horizontal axis is logarithmic, of base two. One key for all, at the top."""
    width, height, key = 380, 250, 26
    rows = math.ceil(len(panels) / 2)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    parts, x = [], 12.0
    for label in labels:
        ink = colour(label)
        parts.append(f'<rect x="{x:.0f}" y="8" width="14" height="4" fill="{ink}"/>')
        parts.append(_text(x + 18, 14, label, "small"))
        x += 34 + 6.3 * len(label)
    for index, panel in enumerate(panels):
        parts += _axes(panel, (index % 2) * width, key + (index // 2) * height, width, height)
    _write(path, max(2 * width, int(x)), key + rows * height, parts)


def _axes(panel: Panel, x: float, y: float, width: float, height: float) -> list[str]:
    left, right, top, bottom = x + 52, x + width - 14, y + 30, y + height - 40
    points = [point for line in panel.lines for point in line.points]
    if not points:
        return []
    xs, ys = [math.log2(p[0]) for p in points], [p[1] for p in points]
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1e-9)
    ticks = _ticks(min(ys), max(ys), panel.log_y)
    low_y, high_y = _height(ticks[0], panel.log_y), _height(ticks[-1], panel.log_y)

    def place(point: Point) -> Point:
        along = (math.log2(point[0]) - low_x) / (high_x - low_x)
        up = (_height(point[1], panel.log_y) - low_y) / (high_y - low_y)
        return left + along * (right - left), bottom - up * (bottom - top)

    parts = [_text(left, y + 18, panel.title, "title")]
    for tick in ticks:
        at = place((points[0][0], tick))[1]
        parts.append(_line(left, at, right, at, "grid"))
        parts.append(_text(left - 5, at + 4, number(tick), "small", "end"))
    for count in sorted({point[0] for point in points}):
        at = place((count, ticks[0]))[0]
        parts.append(_line(at, bottom, at, bottom + 4, "axis"))
        parts.append(_text(at, bottom + 15, _count(count), "small", "middle"))
    parts.append(_text((left + right) / 2, bottom + 31, panel.across, "small", "middle"))
    for line in panel.lines:
        parts += _curve([place(point) for point in line.points], line)
    return parts


def _curve(places: list[Point], line: Line) -> list[str]:
    ink, dash = colour(line.label), ' stroke-dasharray="5 4"' if line.dashed else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"{dash}/>']
    if not line.dashed:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{ink}"/>' for x, y in places]
    return parts


def write_dots(path: Path, panels: Sequence[Panel]) -> None:
    """Panels side by side: named dots, the horizontal axis logarithmic."""
    width, height = 400, 330
    parts: list[str] = []
    for index, panel in enumerate(panels):
        parts += _dots(panel, index * width, width, height)
    _write(path, len(panels) * width, height, parts)


def _dots(panel: Panel, x: float, width: float, height: float) -> list[str]:
    left, right, top, bottom = x + 48, x + width - 14, 30, height - 40
    across = _ticks(min(dot.x for dot in panel.dots), max(dot.x for dot in panel.dots), True)
    across = [
        tick for tick in across if math.log10(tick) % 1 < 1e-9 or tick in across[:: len(across) - 1]
    ]
    up = _ticks(0, max(dot.y for dot in panel.dots), False)
    low, high = math.log10(across[0]), math.log10(across[-1])
    parts = [_text(left, 18, panel.title, "title")]
    for tick in up:
        at = bottom - tick / up[-1] * (bottom - top)
        parts.append(_line(left, at, right, at, "grid"))
        parts.append(_text(left - 5, at + 4, number(tick), "small", "end"))
    for tick in across:
        at = left + (math.log10(tick) - low) / (high - low) * (right - left)
        parts.append(_line(at, bottom, at, bottom + 4, "axis"))
        parts.append(_text(at, bottom + 15, f"{tick:g}", "small", "middle"))
    parts.append(_text((left + right) / 2, bottom + 31, panel.across, "small", "middle"))
    taken: list[float] = []
    for dot in sorted(panel.dots, key=lambda dot: dot.y):
        cx = left + (math.log10(dot.x) - low) / (high - low) * (right - left)
        cy = bottom - dot.y / up[-1] * (bottom - top)
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="{colour(dot.label)}"/>')
        words = cy + 4
        while any(abs(words - other) < 11 for other in taken):  # names do not lie on each other
            words -= 1
        taken.append(words)
        end = cx > (left + right) / 2
        parts.append(
            _text(cx - 7 if end else cx + 7, words, dot.label, "small", "end" if end else "start")
        )
    return parts


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """From 0 in fours or fives, or the powers of ten with their 2 and 5 that enclose the values."""
    if not logarithmic:
        step = 10 ** math.floor(math.log10(high / 4)) if high > 0 else 1.0
        step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step * 5 >= high)
        return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]
    least = 10 ** math.floor(math.log10(low))
    steps = [least * 10**i * f for i in range(9) for f in (1, 2, 5)]
    first = max(i for i, step in enumerate(steps) if step <= low * 1.0001)
    last = min(i for i, step in enumerate(steps) if step >= high * 0.9999)
    return steps[first : max(last, first + 1) + 1]


def _height(value: float, logarithmic: bool) -> float:
    return math.log10(value) if logarithmic else value


def _count(value: float) -> str:
    return f"{value / 1024:g}k" if value >= 1024 and value % 1024 == 0 else f"{value:g}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    shown = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{shown} text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _write(path: Path, width: float, height: float, parts: Sequence[str]) -> None:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, STYLE, *parts, "</svg>"]) + "\n", encoding="utf-8")
