"""Runner: one batch, one native call."""

from __future__ import annotations

from typing import Any, Protocol

from legato.batch import Batch, StepResult
from legato.request import TokenLogprobs


class Program(Protocol):
    """What the engine needs of a lowered model; tests bring their own."""

    def run(self, batch: Batch, /) -> tuple[Any, ...]:
        """The fields of ``StepResult``, in order."""


class Runner:
    """Runs batches on a program."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, batch: Batch) -> StepResult:
        return StepResult(*self._program.run(batch))


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
