"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients know them.

A conversation that ends with a message of the assistant is continued where that message ends.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from legato.answer import Answer
from legato.errors import RequestError
from legato.server.admission import read_object, require_key
from legato.server.anthropic_reply import ANTHROPIC, message, stream
from legato.server.errors import json_response
from legato.server.guidance import guidance_of
from legato.server.openapi import body_of
from legato.server.protocol import naming, parse
from legato.server.service import Service, ServiceOf, off_loop
from legato.server.sse import EventStream, unless_disconnected
from legato.server.turns import Extras, Turn, TurnFormat, render
from legato.text.continuation import Prompt
from legato.text.messages import text_of

router = APIRouter(
    prefix="/v1/messages",
    tags=["Anthropic"],
    dependencies=[Depends(require_key)],
    route_class=ANTHROPIC.route_class(),
)

NO_EFFECT = frozenset({"metadata", "service_tier", "cache_control"})
"""The last asks for a cache that is always on."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ({"type": "auto"}, {"type": "none"}),
    "thinking": ({"type": "disabled"},),
    "output_config": ({},),
    "output_format": (),
    "container": (),
    "context_management": ({},),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "diagnostics": (),
    "inference_geo": (),
}

TURNS = TurnFormat(roles={"user": "user", "assistant": "assistant"})


class CountTokensRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What ``MessagesRequest`` has of a conversation, nothing of its answer."""

    model: str | None = None
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class MessagesRequest(Extras, kw_only=True, forbid_unknown_fields=True):
    """Anthropic's fields, and those of /v1/chat/completions that say how to sample."""

    model: str | None = None
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    max_tokens: int
    stop_sequences: list[str] | None = None


@router.post("", openapi_extra=body_of(MessagesRequest))
async def messages(http: Request, service: ServiceOf) -> Response:
    """Answer a conversation, or continue the answer it ends with."""
    service.check_ready()
    body, size = await read_object(http, service.config.max_body_bytes)
    request = parse(body, MessagesRequest, NO_EFFECT, UNSUPPORTED)
    service.check_model(request.model)
    prompt = await off_loop(size, lambda: prompt_of(request, service))
    answer = _begin(request, prompt, service)
    if request.stream:
        return EventStream(stream(answer, service, echo=request.echo), ANTHROPIC)
    await unless_disconnected(http, service.complete(answer))
    return json_response(message(answer, service, echo=request.echo))


@router.post("/count_tokens", openapi_extra=body_of(CountTokensRequest))
async def count_tokens(http: Request, service: ServiceOf) -> Response:
    """How many tokens the model would read."""
    service.check_ready()
    body, size = await read_object(http, service.config.max_body_bytes)
    request = parse(body, CountTokensRequest, NO_EFFECT, UNSUPPORTED)
    service.check_model(request.model)
    prompt = await off_loop(size, lambda: prompt_of(request, service))
    return json_response({"input_tokens": len(prompt.token_ids)})


def _begin(request: MessagesRequest, prompt: Prompt, service: Service) -> Answer:
    with naming({"stop": "stop_sequences"}):
        return service.answer(
            prompt,
            request.params(service.engine.info.default_sampling, stop=request.stop_sequences),
            request_id=f"msg_{uuid.uuid4().hex}",
            priority=request.priority,
            cache_salt=request.cache_salt,
            field="messages",
            guidance=guidance_of(request, prompt, service),
        )


def prompt_of(request: MessagesRequest | CountTokensRequest, service: Service) -> Prompt:
    if not request.messages:
        raise RequestError("messages: at least one message is required", "messages")
    turns = [TURNS.read(turn, f"messages[{i}]") for i, turn in enumerate(request.messages)]
    turns = _combined(turns)
    continued = turns[-1]["role"] == "assistant"
    begun = turns[-1]["content"]
    if continued and service.config.anthropic_strict and begun != begun.rstrip():
        raise RequestError(
            "messages: final assistant content cannot end with trailing whitespace", "messages"
        )
    system = text_of(request.system, "system")
    if system:
        turns.insert(0, {"role": "system", "content": system})
    return render(turns, service, request.chat_template_kwargs, continued=continued)


def _combined(turns: list[Turn]) -> list[Turn]:
    """Neighbours of one role as one turn, which is what the original makes of them.

    An answer in two messages is one answer: nothing comes between. Two of the user's are two
    paragraphs.
    """
    combined: list[Turn] = []
    for turn in turns:
        if not combined or combined[-1]["role"] != turn["role"]:
            combined.append({**turn})
            continue
        between = "" if turn["role"] == "assistant" else "\n\n"
        combined[-1]["content"] += between + turn["content"]
    return combined
