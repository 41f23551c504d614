"""A bar for many prompts: how many are answered, how many tokens came, how fast."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class NoBar:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def advance(self, tokens: int, finished: bool) -> None:
        """``tokens`` came for one prompt, which may be finished with them."""


class TokenBar(NoBar):
    def __init__(self, prompts: int) -> None:
        self._bar = Progress(
            TextColumn("answering"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        self._task = self._bar.add_task("", total=prompts, speed="")
        self._tokens = 0
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, tokens: int, finished: bool) -> None:
        self._tokens += tokens
        if finished:
            speed = self._tokens / (time.perf_counter() - self._started)
            self._bar.update(self._task, advance=1, speed=f"{speed:.0f} tokens/s")
