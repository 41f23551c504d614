"""What POST /v1/completions takes."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from legato.errors import RequestError
from legato.request import SamplingParams
from legato.sampling_params import DEFAULT_MAX_TOKENS, from_fields
from legato.server.protocol import GenerationFields

MAX_PROMPTS = 1024
MAX_ANSWERS = 4096
"""Of one request: each of ``n`` for each prompt."""


class CompletionRequest(GenerationFields, kw_only=True, forbid_unknown_fields=True):
    """``prompt`` is a text, a list of texts, a list of token ids, or a list of such lists.

    ``seam``: where the answer begins that the prompt ends with.
    """

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    add_special_tokens: bool = True
    seam: int | None = None

    @property
    def generates(self) -> bool:
        """Not with ``max_tokens: 0``, which with ``echo`` only scores the prompt."""
        return self.max_tokens != 0

    @property
    def echoes_logprobs(self) -> bool:
        return self.echo and self.logprobs is not None


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    prompts = _prompts(request.prompt)
    answers = len(prompts) * (request.n or 1)
    if answers > MAX_ANSWERS:
        raise RequestError(
            f"n = {request.n} for each of {len(prompts)} prompts are {answers} answers, at most "
            f"{MAX_ANSWERS} are",
            "n",
        )
    return prompts


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(part) for part in prompt}
    if len(kinds) > 1:
        raise RequestError("prompt mixes texts and token ids", "prompt")
    if not prompt or [] in prompt:
        raise RequestError("prompt must not be empty", "prompt")
    if kinds == {int}:
        return [cast("list[int]", prompt)]
    if len(prompt) > MAX_PROMPTS:
        raise RequestError(f"prompt has {len(prompt)} parts, at most {MAX_PROMPTS} are", "prompt")
    return cast("list[str | list[int]]", prompt)


def sampling_params(request: CompletionRequest, preferences: dict[str, Any]) -> SamplingParams:
    fields = msgspec.structs.asdict(request)
    if request.max_tokens is None:
        fields["max_tokens"] = DEFAULT_MAX_TOKENS
    elif request.max_tokens == 0 and request.echo:
        fields["max_tokens"] = 1  # the engine's least; ``generates`` drops it
    if request.echoes_logprobs:
        fields["prompt_logprobs"] = max(request.logprobs or 0, request.prompt_logprobs or 0)
    return from_fields(fields, preferences)
