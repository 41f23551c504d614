"""Runner: one batch, one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from legato.batch import I32, Batch, StepResult
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
        self.failed_grammars = settle(ruled, batch, result, self._redraw) if ruled else {}
        return result

    def go_on(self, batch: Batch, tokens: list[int]) -> list[int]:
        """The step after one that ran this ``batch``, with one token more of each of its rows."""
        if self._decoded is not batch or self._decoding is None:
            self._decoded, self._decoding = batch, self._program.decoding(batch)
        return self._decoding.step(tokens)

    def _redraw(self, batch: Batch, rows: I32) -> StepResult:
        return StepResult(*self._program.redraw(batch, rows))


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
