"""Runner: one batch, one native call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from legato.batch import I32, U32, Batch, StepResult
from legato.constraint.ruling import Ruled, settle
from legato.request import TokenLogprobs

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar


class Program(Protocol):
    """What the engine needs of a lowered model; tests bring their own."""

    def run(self, batch: Batch, /) -> tuple[Any, ...]:
        """The fields of ``StepResult``, in order."""

    def redraw(self, batch: Batch, rows: I32, /) -> tuple[Any, ...]:
        """The same for some logit rows of the last step, under the masks that ``batch`` has now."""

    def decoding(self, batch: Batch, /) -> Decoding:
        """To go on with a batch of nothing but decodes that has run."""


class Decoding(Protocol):
    def step(self, tokens: list[int], /) -> list[int]:
        """Moves the batch on by its rows' ``tokens``, in place, and runs it. Returns the next ones."""


class Runner:
    """Runs batches on a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._decoded: Batch | None = None  # what ``_decoding`` goes on with
        self._decoding: Decoding | None = None
        self.failed_grammars: dict[Grammar, str] = {}  # in the last run, with the reason

    def run(self, batch: Batch, ruled: Sequence[Ruled] = ()) -> StepResult:
        """``ruled``: the rows whose tokens a grammar must allow."""
        result = StepResult(*self._program.run(batch))
        self._settle(ruled, batch, result.token_ids.tolist(), result)
        return result

    def go_on(self, batch: Batch, tokens: list[int], ruled: Sequence[Ruled] = ()) -> list[int]:
        """The step after one that ran this ``batch``, with one token more of each of its rows."""
        if self._decoded is not batch or self._decoding is None:
            self._decoded, self._decoding = batch, self._program.decoding(batch)
        drawn = self._decoding.step(tokens)
        self._settle(ruled, batch, drawn, None)
        return drawn

    def _settle(
        self, ruled: Sequence[Ruled], batch: Batch, tokens: list[int], result: StepResult | None
    ) -> None:
        """Changes the ``tokens`` that a grammar refuses, and what ``result`` says of their rows."""
        self.failed_grammars = {}
        if ruled:
            redraw = partial(self._redraw, batch, result)
            self.failed_grammars = settle(ruled, tokens, redraw)

    def _redraw(self, batch: Batch, result: StepResult | None, rows: I32, masks: U32) -> list[int]:
        index = np.full(len(batch.logit_rows), -1, np.int32)
        index[rows] = np.arange(len(rows), dtype=np.int32)
        sampling = batch.sampling
        free = sampling.masks, sampling.mask_index, sampling.fallback_index
        # The first draw is known: what was a soft mask has failed.
        sampling.masks, sampling.mask_index, sampling.fallback_index = masks, index, index
        try:
            again = StepResult(*self._program.redraw(batch, rows))
        finally:
            sampling.masks, sampling.mask_index, sampling.fallback_index = free
        if result is not None:
            for name in ("token_ids", "logprobs", "ranks", "top_ids", "top_logprobs"):
                getattr(result, name)[rows] = getattr(again, name)[rows]
        return cast("list[int]", again.token_ids[rows].tolist())


def token_logprobs(result: StepResult, row: int, wanted: int) -> TokenLogprobs:
    """Of a row's token and the ``wanted`` most likely ones."""
    top = result.top_ids[row, :wanted]
    top = top[top >= 0]  # a vocabulary may be smaller than what is wanted
    return TokenLogprobs(
        token_ids=[int(result.token_ids[row]), *top.tolist()],
        logprobs=[
            float(result.logprobs[row]),
            *result.top_logprobs[row, : len(top)].tolist(),
        ],
        rank=int(result.ranks[row]),
    )
