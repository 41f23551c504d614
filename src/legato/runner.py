"""Runner: one batch, one native call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from legato.batch import Batch, StepResult
from legato.constraint.masks import MaskPlan
from legato.request import TokenLogprobs

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar


class Program(Protocol):
    """What the engine needs of a lowered model; tests bring their own."""

    def run(self, batch: Batch, /) -> tuple[Any, ...]:
        """The fields of ``StepResult``, in order."""


class Runner:
    """Runs batches on a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._masking = ThreadPoolExecutor(1, "masks")
        self.failed_grammars: dict[Grammar, str] = {}  # in the last run, with the reason

    def run(self, batch: Batch, late_masks: MaskPlan | None = None) -> StepResult:
        """``late_masks`` are computed meanwhile; the program waits for them before it samples."""
        self.failed_grammars = {}
        if late_masks is None:
            return StepResult(*self._program.run(batch))
        filling = self._masking.submit(late_masks.fill)
        try:
            return StepResult(*self._program.run(batch))
        finally:
            self.failed_grammars = filling.result()


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
