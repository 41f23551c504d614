"""A bar on the terminal while bytes arrive."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Report: TypeAlias = Callable[[int], None]
"""Told how many bytes are there by now."""


@contextmanager
def reporting(title: str, total: int | None, show: bool) -> Iterator[Report]:
    """Yields a function to call with the bytes so far. ``total`` None: not known."""
    if not show:
        yield lambda _: None
        return
    # imported where it is shown: an engine that finds its model on disk has no use for it
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        atexit.register(bars.stop)  # a thread that is left in the middle would leave no cursor
        task = bars.add_task(title, total=total)

        def report(done: int) -> None:
            bars.update(task, completed=done if total is None else min(done, total))

        try:
            yield report
        finally:
            atexit.unregister(bars.stop)
        if total is not None:
            bars.update(task, completed=total)


def offset_by(before: int, report: Report) -> Report:
    """For one part of a whole: ``before`` bytes came earlier."""
    return lambda done: report(before + done)
