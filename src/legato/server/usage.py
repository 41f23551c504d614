"""The ``usage`` object: tokens read, tokens written, and how many of those read were cached."""

from __future__ import annotations

from typing import Any

from legato.answer import Answer


def usage(answers: list[Answer], *, generated: bool = True) -> dict[str, Any]:
    """Summed over the prompts of a request; with n choices, the prompt counts once.

    Not ``generated``: only the prompts were wanted.
    """
    prompt = sum(len(answer.prompt_token_ids) for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers) if generated else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(a.cached_tokens for a in answers)},
    }


def chat_usage(answer: Answer) -> dict[str, Any]:
    """Of a chat, where some of the tokens may be thoughts, or were predicted."""
    details = {"reasoning_tokens": answer.reasoning_tokens}
    if answer.predicted.counts is not None:
        accepted, rejected = answer.predicted.counts
        details["accepted_prediction_tokens"] = accepted
        details["rejected_prediction_tokens"] = rejected
    return {**usage([answer]), "completion_tokens_details": details}
