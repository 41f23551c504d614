"""An engine's client whose outputs a test chooses: for what a real model does too rarely."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from legato.constraint.spellings import Spellings
from legato.errors import LegatoError
from legato.messages import Stats
from legato.models.info import ModelInfo
from legato.request import FinishReason, Output, Request
from legato.server.bridge import EngineState

Script = Callable[[Request], list[list[Output]]]


def says(token_ids: list[int]) -> Script:
    """Every choice gets these tokens, one a step, and ends with ``length``.

    Text that the request wants spelled first comes before them.
    """

    def script(request: Request) -> list[list[Output]]:
        choices = range(request.params.n)
        steps = [
            [Output(request_id=request.id, index=i, token_ids=[token]) for i in choices]
            for token in [*request.draft_token_ids, *token_ids]
        ]
        for output in steps[-1]:
            output.finish_reason = FinishReason.LENGTH
        for output in steps[0]:
            output.cached_tokens = 3
        return steps

    return script


class FakeEngine:
    """Plays ``script`` for each request. An exception in ``fails_with`` ends it instead."""

    def __init__(self, info: ModelInfo, script: Script, *, pause: float = 0.0) -> None:
        self.info = info
        self.script = script
        self.pause = pause
        self.state = EngineState.READY
        self.stats = Stats()
        self.restarts = self.resumed = 0
        self.pid = None
        self.on_stats = lambda stats: None
        self.fails_with: Exception | None = None
        self.fails_after = 0
        self.requests: list[Request] = []
        self.cancelled: list[tuple[str, int | None]] = []
        self.ranked: list[tuple[str, int]] = []

    async def generate(
        self, request: Request, *, timeout: float | None = None
    ) -> AsyncGenerator[list[Output], None]:
        self.requests.append(request)
        played = False
        try:
            steps = self.script(request)
            for number, outputs in enumerate(steps):
                if self.fails_with is not None and number == self.fails_after:
                    raise self.fails_with
                await asyncio.sleep(self.pause)
                played = number == len(steps) - 1
                yield outputs
        finally:
            if not played:
                self.cancel(request.id)

    def close(self, error: LegatoError) -> None:
        self.fails_with = error

    def rank(self, request_id: str, priority: int) -> None:
        self.ranked.append((request_id, priority))

    def describe(self, spellings: Spellings) -> None:
        self.spellings = spellings

    def cancel(self, request_id: str, index: int | None = None) -> None:
        self.cancelled.append((request_id, index))
