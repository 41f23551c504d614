"""What ``LLM`` gives back: a prompt and its answers, in vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass

from legato.answer import Answer, Choice
from legato.request import TokenLogprobs
from legato.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int  # 1: the most likely token
    decoded_token: str


TokenChoices = dict[int, Logprob]
"""Token id -> its log-probability, the chosen token first."""


@dataclass(frozen=True)
class CompletionOutput:
    """One of the n answers."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenChoices] | None
    finish_reason: str | None
    stop_reason: int | str | None
    cumulative_logprob: float | None = None  # of all ``token_ids``, if ``logprobs`` were asked for
    reasoning: str = ""  # the thoughts in ``text``, of a chat
    content: str = ""  # ``text`` without them


@dataclass(frozen=True)
class RequestOutput:
    """A prompt and its answers. In a chat, ``prompt`` is what the template made of the messages."""

    request_id: str
    prompt: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenChoices | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int


def request_output(answer: Answer, tokenizer: Tokenizer) -> RequestOutput:
    entries = answer.prompt_logprobs
    return RequestOutput(
        request_id=answer.request.id,
        prompt=answer.prompt.text,
        prompt_token_ids=answer.prompt_token_ids,
        prompt_logprobs=None
        if entries is None
        else [None if entry is None else _by_id(entry, tokenizer) for entry in entries],
        outputs=[_completion(answer, choice, tokenizer) for choice in answer.choices],
        finished=answer.finished,
        num_cached_tokens=answer.cached_tokens,
    )


def _completion(answer: Answer, choice: Choice, tokenizer: Tokenizer) -> CompletionOutput:
    wanted = answer.request.params.logprobs is not None
    return CompletionOutput(
        index=choice.index,
        text=choice.text,
        token_ids=choice.token_ids,
        logprobs=[_by_id(entry, tokenizer) for entry in choice.logprobs] if wanted else None,
        finish_reason=choice.finish_reason,
        stop_reason=choice.stop_reason,
        cumulative_logprob=sum(entry.logprobs[0] for entry in choice.logprobs) if wanted else None,
        reasoning=choice.reasoning,
        content=choice.content,
    )


def _by_id(entry: TokenLogprobs, tokenizer: Tokenizer) -> TokenChoices:
    ranks = [entry.rank, *range(1, len(entry.token_ids))]
    found: TokenChoices = {}
    for token, logprob, rank in zip(entry.token_ids, entry.logprobs, ranks, strict=True):
        found.setdefault(token, Logprob(logprob, rank, tokenizer.token_text(token)))
    return found
