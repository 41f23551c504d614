"""POST /tokenize and /detokenize, in vLLM's shape."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from legato.errors import RequestError
from legato.sampling_params import check_in_vocabulary
from legato.server.admission import read_request
from legato.server.chat_request import ChatRequest
from legato.server.openai_chat import render
from legato.server.routes import Routes
from legato.server.service import LONG_TEXT, Service, off_loop
from legato.text.precedence import ContinueFinalMessage

router = Routes("tokens")


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Either ``prompt`` or ``messages``, which go through the chat template as in a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: ContinueFinalMessage | None = None
    parse_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    cache_salt: str | None = None
    return_token_strs: bool = False


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str | None = None
    tokens: list[int]


@router.post("/tokenize", TokenizeRequest)
async def tokenize(http: Request, service: Service) -> dict[str, Any]:
    """The token ids of a text, or of a conversation as the model would see it."""
    service.check_ready()
    request, size = await read_request(http, TokenizeRequest)
    service.check_model(request.model)
    length = size if request.chat_template is None else LONG_TEXT + 1  # as in a chat
    return await off_loop(length, lambda: _reply(request, service))


def _reply(request: TokenizeRequest, service: Service) -> dict[str, Any]:
    tokens = _token_ids(request, service)
    return {
        "tokens": tokens,
        "count": len(tokens),
        "max_model_len": service.engine.info.max_model_len,
        "token_strs": [service.text.token_text(token) for token in tokens]
        if request.return_token_strs
        else None,
    }


def _token_ids(request: TokenizeRequest, service: Service) -> list[int]:
    if (request.prompt is None) == (request.messages is None):
        raise RequestError("give either prompt or messages", "prompt")
    if request.prompt is not None:
        special = request.add_special_tokens is not False
        text = service.text_within(request.cache_salt)
        return text.encode(request.prompt, add_special_tokens=special)
    chat = ChatRequest(
        messages=request.messages or [],
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        parse_special_tokens=request.parse_special_tokens,
        chat_template=request.chat_template,
        chat_template_kwargs=request.chat_template_kwargs,
        documents=request.documents,
        cache_salt=request.cache_salt,
    )
    return render(chat, service).token_ids


@router.post("/detokenize", DetokenizeRequest)
async def detokenize(http: Request, service: Service) -> dict[str, str]:
    """The text of token ids, special tokens included."""
    service.check_ready()
    request, size = await read_request(http, DetokenizeRequest)
    service.check_model(request.model)
    check_in_vocabulary(request.tokens, service.text.vocab_size, "tokens")
    tokenizer = service.text
    text = await off_loop(
        size,
        lambda: tokenizer.decode(request.tokens, skip_special_tokens=False, at_start=True),
    )
    return {"prompt": text}
