"""POST /v1/completions: text or token ids, continued as they are."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from legato.answer import Answer, Choice
from legato.asking import completion_prompt
from legato.errors import RequestError
from legato.request import TokenLogprobs
from legato.server.admission import read_request
from legato.server.completion_request import CompletionRequest, prompts_of, sampling_params
from legato.server.completion_stream import CompletionStream, merged, text_offsets
from legato.server.errors import json_response
from legato.server.guidance import guidance_of
from legato.server.kept_streams import event_stream
from legato.server.logprobs import completion_logprobs, prompt_logprobs
from legato.server.routes import Routes
from legato.server.service import Service, new_id, off_loop
from legato.server.sse import unless_disconnected
from legato.server.structured import grammar_of
from legato.server.usage import usage
from legato.text.continuation import Prompt

router = Routes("generation")

AT_ONCE = 16
"""Prompts of one request between which other requests have their turn."""


@router.post("/v1/completions", CompletionRequest)
async def completions(http: Request, service: Service) -> Response:
    """Continue a prompt, or several."""
    service.check_ready()
    request, size = await read_request(http, CompletionRequest)
    service.check_model(request.model)
    request.check_streaming()
    window = service.resume_window(request.resume_window, streamed=request.stream)
    prompts = await off_loop(size, lambda: _prompts(request, service))
    grammar = await grammar_of(request, prompts[0] if request.seam is not None else None, service)
    answers = await _answers(request, prompts, service, grammar)
    if request.stream:
        events = CompletionStream(request, answers, service).events()
        return event_stream(service.streams, answers[0].request.id, events, window)
    await unless_disconnected(http, _complete(answers, service))
    return json_response(_whole(request, answers, service))


def _prompts(request: CompletionRequest, service: Service) -> list[Prompt]:
    prompts = prompts_of(request)
    if request.seam is not None and len(prompts) > 1:
        raise RequestError(f"seam is of one prompt, but there are {len(prompts)}", "seam")
    text = service.text_within(request.cache_salt)
    return [
        completion_prompt(
            text,
            prompt,
            add_special_tokens=request.add_special_tokens,
            seam=request.seam,
        )
        for prompt in prompts
    ]


async def _answers(
    request: CompletionRequest, prompts: list[Prompt], service: Service, grammar: str
) -> list[Answer]:
    params = sampling_params(request, service.engine.info.default_sampling)
    service.load.check_size(len(prompts), len(prompts) * params.n)
    request_id = new_id("cmpl", request.request_id)
    answers = []
    for number, prompt in enumerate(prompts):
        if number % AT_ONCE == AT_ONCE - 1:  # each is looked for in the memory of answers
            await asyncio.sleep(0)
        answers.append(
            service.answer(
                prompt,
                params,
                request_id=request_id if len(prompts) == 1 else f"{request_id}-{number}",
                priority=request.priority,
                cache_salt=request.cache_salt,
                field="prompt",
                guidance=guidance_of(request, prompt, service, grammar),
            )
        )
    return answers


async def _complete(answers: list[Answer], service: Service) -> None:
    async with aclosing(merged(answers, service)) as steps:
        async for _ in steps:
            pass


def _whole(request: CompletionRequest, answers: list[Answer], service: Service) -> dict[str, Any]:
    choices = [
        _choice(request, answer, choice, number * len(answer.choices) + choice.index, service)
        for number, answer in enumerate(answers)
        for choice in answer.choices
    ]
    return {
        "id": answers[0].request.id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.model_name,
        "choices": choices,
        "usage": usage(answers, generated=request.generates),
    }


def _choice(
    request: CompletionRequest, answer: Answer, choice: Choice, index: int, service: Service
) -> dict[str, Any]:
    token_ids = choice.token_ids if request.generates else []
    text = choice.text if request.generates else ""
    reply = {
        "index": index,
        "text": answer.prompt.text + text if request.echo else text,
        "logprobs": None,
        "finish_reason": choice.finish_reason if request.generates else "length",
        "stop_reason": choice.stop_reason if request.generates else None,
    }
    if request.logprobs is not None:
        entries: list[TokenLogprobs | None] = [*choice.logprobs[: len(token_ids)]]
        shown, offsets = token_ids, text_offsets(request, service.text)
        places = []
        if request.echo:
            entries = (answer.prompt_logprobs or []) + entries
            shown = answer.prompt_token_ids + token_ids
            places = offsets.echo(answer.prompt.text, answer.prompt_token_ids)
        places += offsets.push(token_ids, choice.overlap)
        reply["logprobs"] = completion_logprobs(
            shown, entries, request.logprobs, service.text, places
        )
    if request.prompt_logprobs is not None and answer.prompt_logprobs is not None:
        reply["prompt_logprobs"] = prompt_logprobs(answer.prompt_logprobs, service.text)
    if request.return_token_ids:
        reply["prompt_token_ids"] = answer.prompt_token_ids
        reply["token_ids"] = token_ids
    return reply
