"""What the engine counts of its steps, for ``messages.Stats``."""

from __future__ import annotations

from collections.abc import Sequence as Items

from legato.messages import Stats, StepKind
from legato.plan import Part
from legato.sequence import Sequence


def count_step(stats: Stats, parts: Items[Part], seconds: float) -> None:
    """A step with these parts has run."""
    tokens = chunks = 0
    for part in parts:
        tokens += part.num_tokens
        chunks += part.count > 1
    stats.steps += 1
    stats.last_step_seconds = seconds
    stats.last_step_tokens = tokens
    stats.last_step_kind = _kind(chunks, len(parts))


def _kind(chunks: int, parts: int) -> StepKind:
    if not chunks:
        return StepKind.DECODE
    return StepKind.PREFILL if chunks == parts else StepKind.MIXED


def count_draft(stats: Stats, sequence: Sequence, drafted: int, accepted: int) -> None:
    """``drafted`` tokens were computed ahead, of which so many were right."""
    if sequence.is_guessing:
        stats.guessed_tokens += drafted
        stats.guessed_accepted += accepted
    else:
        stats.drafted_tokens += drafted
        stats.drafted_accepted += accepted
