"""A line in the log for each answer: its size and its times. Its prompt only when that was asked for."""

from __future__ import annotations

import logging
from typing import Any

from legato.server.timeline import Timeline

LOG = logging.getLogger("legato.answers")


def log_answer(timeline: Timeline, *, prompts: bool) -> None:
    answer = timeline.answer
    fields: dict[str, Any] = {
        "answer": answer.request.id,
        "prompt_tokens": len(answer.prompt_token_ids),
        "cached_tokens": answer.cached_tokens,
        "completion_tokens": answer.completion_tokens,
        "finish_reasons": ",".join(choice.finish_reason or "abort" for choice in answer.choices),
        "queue_seconds": _between(timeline.arrival, timeline.scheduled),
        "first_token_seconds": _between(timeline.arrival, timeline.first),
        "seconds": _between(timeline.arrival, timeline.ended),
    }
    if timeline.error:
        fields["error"] = timeline.error
    if prompts:
        fields["prompt"] = answer.prompt.text
    known = {name: value for name, value in fields.items() if value is not None}
    LOG.info("answer", extra={"fields": known})


def _between(start: float, end: float | None) -> float | None:
    return None if end is None else round(end - start, 4)
