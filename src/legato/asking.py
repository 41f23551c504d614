"""From a prompt and what a client asks for to the engine's request.

The server and ``LLM`` both go this way, and back by ``answer``, which is why their answers are the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from legato.answer import Answer
from legato.constraint.spellings import Spellings
from legato.errors import ContextLengthError, RequestError
from legato.request import NO_GUIDANCE, Guidance, Request, SamplingParams
from legato.sampling_params import SeedSource, check_in_vocabulary, validate
from legato.text.continuation import Prompt
from legato.text.parting import given_content, parting_of
from legato.text.recall import AnswerMemory
from legato.text.resuming import resume, spelled
from legato.text.resumption import Resumption
from legato.text.thinking import resumed

if TYPE_CHECKING:
    from legato.models.info import ModelInfo
    from legato.text.tokenizer import Tokenizer


def keeps_tokens(params: SamplingParams) -> bool:
    """Whoever scores the prompt's tokens, or names those of the answer, thinks in tokens: they stay
    as the tokenizer makes them, neither healed nor remembered."""
    return params.prompt_logprobs is not None or params.allowed_token_ids is not None


def completion_prompt(
    tokenizer: Tokenizer,
    prompt: str | list[int],
    *,
    add_special_tokens: bool = True,
    seam: int | None = None,
) -> Prompt:
    """A prompt that no chat template touches: text, or token ids as they are.

    ``seam``: where the answer begins that the prompt ends with, in characters of a text (as
    ``legato render`` has it), in token ids of a list of them. Raises RequestError where it lies
    outside.
    """
    if seam is not None and not 0 <= seam <= len(prompt):
        raise RequestError(f"seam must be in 0..{len(prompt)}, the prompt's length", "seam")
    if isinstance(prompt, str):
        token_ids = tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        made = Prompt(text=prompt, token_ids=token_ids, seam=len(prompt), prefill="")
        if seam is None:
            return made
        header = tokenizer.encode(prompt[:seam], add_special_tokens=add_special_tokens)
        return _naming_answer(made, seam, header)
    check_in_vocabulary(prompt, tokenizer.vocab_size, "prompt")
    text = tokenizer.decode(prompt, skip_special_tokens=False)
    made = Prompt(text=text, token_ids=prompt, seam=len(text), prefill="", is_text=False)
    if seam is None:
        return made
    before = tokenizer.decode(prompt[:seam], skip_special_tokens=False)
    return _naming_answer(made, len(before), prompt[:seam])


def _naming_answer(prompt: Prompt, seam: int, header_ids: list[int]) -> Prompt:
    words = prompt.text[seam:]
    return replace(prompt, seam=seam, prefill=words, header_ids=header_ids, names_answer=True)


def spellings_of(tokenizer: Tokenizer, info: ModelInfo) -> Spellings:
    """What the engine must know of the vocabulary to constrain tokens."""
    data, ends = tokenizer.spell_all(info.vocab_size)
    return Spellings(
        data=data,
        ends=ends,
        special_ids=sorted(info.known({*tokenizer.special_ids})),
        eos_ids=list(info.known({*info.eos_token_ids, *tokenizer.eos_token_ids})),
    )


def open_answer(
    prompt: Prompt,
    params: SamplingParams,
    memory: AnswerMemory,
    info: ModelInfo,
    tokenizer: Tokenizer,
    seeds: SeedSource,
    *,
    request_id: str,
    priority: int = 0,
    cache_salt: str = "",
    field: str = "prompt",
    guidance: Guidance = NO_GUIDANCE,
) -> Answer:
    """An answer that has not begun, with its request.

    Raises RequestError for parameters out of range or tokens that the model does not have,
    ContextLengthError (naming ``field``) when what is asked for does not fit into its context.
    """
    stays = keeps_tokens(params)
    resumption = resume(
        prompt,
        tokenizer,
        None if stays else memory,
        cache_salt,
        healing=guidance.token_healing and not stays,
        within_answer=bool(guidance.grammar),
    )
    params = validate(params, info.vocab_size, len(resumption.output_token_ids))
    if tokenizer.vocab_size > info.vocab_size:
        check_in_vocabulary(resumption.token_ids, info.vocab_size, field)
    request = Request(
        id=request_id,
        prompt_token_ids=resumption.prompt_token_ids,
        output_token_ids=resumption.output_token_ids,
        pending=resumption.pending,
        draft_token_ids=resumption.draft,
        prediction_token_ids=guidance.prediction_token_ids,
        thinking=guidance.thinking and resumed(guidance.thinking, prompt, resumption, tokenizer),
        grammar=guidance.grammar,
        grammar_field=guidance.grammar_field,
        grammar_text=_kept_content(prompt, resumption, tokenizer) if guidance.grammar else b"",
        params=_settled(params, resumption, info, seeds, field),
        eos_token_ids=sorted(info.known({*info.eos_token_ids, *tokenizer.eos_token_ids})),
        priority=priority,
        cache_salt=cache_salt,
    )
    remembered = [memory.begin(cache_salt, prompt, resumption) for _ in range(params.n)]
    return Answer(prompt, request, tokenizer, remembered, parting_of(prompt, tokenizer))


def _settled(
    params: SamplingParams, resumption: Resumption, info: ModelInfo, seeds: SeedSource, field: str
) -> SamplingParams:
    """With what the client left open: the seed, and how many tokens may come. The engine counts the given
    words of the answer as output, the client's ``max_tokens`` does not."""
    room = _room(resumption.num_tokens, params.max_tokens, info.max_model_len, field)
    most = room if params.max_tokens is None else params.max_tokens
    return msgspec.structs.replace(
        params,
        seed=seeds.draw() if params.seed is None else params.seed,
        max_tokens=len(resumption.output_token_ids) + most,
    )


def _kept_content(prompt: Prompt, resumption: Resumption, tokenizer: Tokenizer) -> bytes:
    """What was given of the answer's content, without the part that will be spelled again."""
    content = given_content(prompt, tokenizer)
    data, pending = content.encode(), resumption.pending
    if not data.endswith(pending):
        data = spelled(content, [*resumption.output_token_ids, *resumption.draft], tokenizer)
    return data[: max(0, len(data) - len(pending))]


def _room(prompt_tokens: int, max_tokens: int | None, context: int, field: str) -> int:
    """How many tokens fit after the prompt; checks that those asked for do."""
    if prompt_tokens == 0:
        raise RequestError(f"{field} has no tokens: there is nothing to continue", field)
    room = context - prompt_tokens
    if room < 1 or (max_tokens is not None and max_tokens > room):
        asked = "" if max_tokens is None else f" and max_tokens asks for {max_tokens} more"
        raise ContextLengthError(
            f"the model's context length is {context} tokens, but {field} has "
            f"{prompt_tokens}{asked}",
            field if room < 1 else "max_tokens",
        )
    return room
