"""A table for people and JSON for machines."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from legato import __version__
from legato._native import barrier_ns
from legato.bench.rounds import Round, Spread, summarise


def number(value: float) -> str:
    """Three digits that matter, or all before the point."""
    if not math.isfinite(value):
        return "-"
    digits = (
        0
        if value == int(value) or abs(value) >= 100
        else 1
        if abs(value) >= 10
        else 2
        if abs(value) >= 1
        else 3
    )
    return f"{value:,.{digits}f}"


def readable(name: str) -> str:
    """``inter_token_p50_ms`` -> ``inter token p50 (ms)``."""
    for unit, shown in (("_tokens_per_s", "tokens/s"), ("_ms", "ms"), ("_mib", "MiB"), ("_s", "s")):
        if name.endswith(unit):
            return f"{name.removesuffix(unit).replace('_', ' ')} ({shown})"
    return name.replace("_", " ")


def machine() -> dict[str, Any]:
    """Where the figures were taken, and how busy it was."""
    model = platform.processor()
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "processor": model,
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "barrier_ns": round(barrier_ns()),
        "python": platform.python_version(),
        "legato": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def show(title: str, summary: Mapping[str, Spread], rounds: int) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("median" if rounds > 1 else "value", justify="right")
    if rounds > 1:
        table.add_column(f"spread of {rounds} rounds", justify="right")
    for name, spread in summary.items():
        cells = [readable(name), number(spread.median)]
        if rounds > 1:
            cells.append(f"{number(spread.low)} .. {number(spread.high)}")
        table.add_row(*cells)
    Console().print(table)


def publish(
    title: str, command: str, settings: dict[str, Any], rounds: Sequence[Round], path: str | None
) -> None:
    """Prints the table; writes settings, machine, rounds and medians to ``path`` if there is one."""
    summary = summarise(rounds)
    show(title, summary, len(rounds))
    if path:
        write_json(
            path,
            {
                "command": command,
                "settings": settings,
                "machine": machine(),
                "summary": {name: spread.as_json() for name, spread in summary.items()},
                "rounds": list(rounds),
            },
        )


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """NaN is not JSON: it is written as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(plain(content), indent=2) + "\n", encoding="utf-8")
