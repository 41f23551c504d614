"""POST /v1/chat/completions.

Whether a last message of the assistant's is continued is decided by ``legato.text.precedence``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from legato.answer import Answer, Choice, Piece
from legato.server.admission import read_request
from legato.server.chat_request import ChatRequest, RenderRequest, chat_prompt, sampling_params
from legato.server.errors import json_response
from legato.server.guidance import guidance_of
from legato.server.kept_streams import event_stream
from legato.server.logprobs import chat_logprobs, prompt_logprobs
from legato.server.protocol import naming
from legato.server.render_command import rendered
from legato.server.routes import Routes
from legato.server.service import LONG_TEXT, Service, new_id, off_loop
from legato.server.sse import DONE, encode, unless_disconnected
from legato.server.structured import grammar_of
from legato.server.usage import chat_usage
from legato.text.continuation import Prompt
from legato.text.sandbox import limited

router = Routes("generation")


def render(request: ChatRequest, service: Service) -> Prompt:
    """The request's prompt, under the server's settings. What a template costs that the request brings
    is counted for all that it is tried with."""
    with nullcontext() if request.chat_template is None else limited():
        return chat_prompt(
            request,
            service.template,
            service.text_within(request.cache_salt),
            assistant_prefill=service.config.assistant_prefill,
            reasoning_parser=service.config.reasoning_parser,
            trusts_template=service.config.trust_request_chat_template,
        )


def length_of(request: ChatRequest, size: int) -> int:
    """For ``off_loop``: a template that comes with a request may take all the time it gets."""
    return size if request.chat_template is None else LONG_TEXT + 1


@router.post("/v1/chat/completions", ChatRequest)
async def chat_completions(http: Request, service: Service) -> Response:
    """Answer a conversation, or continue the answer it ends with."""
    service.check_ready()
    request, size = await read_request(http, ChatRequest)
    service.check_model(request.model)
    request.check_streaming()
    window = service.resume_window(request.resume_window, streamed=request.stream)
    params = sampling_params(request, service.engine.info.default_sampling)
    length = length_of(request, size)
    prompt = await off_loop(length, lambda: render(request, service))
    grammar = await grammar_of(request, prompt, service)
    guidance = await off_loop(length, lambda: guidance_of(request, prompt, service, grammar))
    with naming(request.names):
        answer = service.answer(
            prompt,
            params,
            request_id=new_id("chatcmpl", request.request_id),
            priority=request.priority,
            cache_salt=request.cache_salt,
            field="messages",
            guidance=guidance,
        )
    if request.stream:
        events = ChatStream(request, answer, service).events()
        return event_stream(service.streams, answer.request.id, events, window)
    await unless_disconnected(http, service.complete(answer))
    return json_response(_whole(request, answer, service))


@router.post("/v1/chat/completions/render", RenderRequest)
async def render_chat(http: Request, service: Service) -> dict[str, Any]:
    """The prompt that a chat makes, where the answer begins in it, and its token ids."""
    service.check_ready()
    request, size = await read_request(http, RenderRequest)
    service.check_model(request.model)
    prompt = await off_loop(length_of(request, size), lambda: render(request, service))
    return rendered(prompt, with_ids=True)


def _whole(request: ChatRequest, answer: Answer, service: Service) -> dict[str, Any]:
    reply = {
        "id": answer.request.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": service.model_name,
        "choices": [_choice(request, answer, choice, service) for choice in answer.choices],
        "usage": chat_usage(answer),
    }
    if request.return_token_ids:
        reply["prompt_token_ids"] = answer.prompt_token_ids
    if answer.prompt_logprobs is not None:
        reply["prompt_logprobs"] = prompt_logprobs(answer.prompt_logprobs, service.text)
    return reply


def _choice(
    request: ChatRequest, answer: Answer, choice: Choice, service: Service
) -> dict[str, Any]:
    reply = {
        "index": choice.index,
        "message": _message(request, answer, choice),
        "logprobs": None,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }
    if request.logprobs:
        reply["logprobs"] = chat_logprobs(choice.logprobs, request.top_logprobs or 0, service.text)
    if request.return_token_ids:
        reply["token_ids"] = choice.token_ids
    return reply


def _message(request: ChatRequest, answer: Answer, choice: Choice) -> dict[str, Any]:
    message = _opening_message(request, answer)
    message["content"] += choice.content
    if choice.reasoning:
        message["reasoning_content"] = message.get("reasoning_content", "") + choice.reasoning
    return message


def _opening_message(request: ChatRequest, answer: Answer) -> dict[str, str]:
    """The role, and what ``echo`` repeats."""
    message = {"role": "assistant", "content": ""}
    if request.echo:
        reasoning, message["content"] = answer.given
        if reasoning:
            message["reasoning_content"] = reasoning
    return message


class ChatStream:
    """The chunks of one streamed answer."""

    def __init__(self, request: ChatRequest, answer: Answer, service: Service) -> None:
        self.request = request
        self.answer = answer
        self.service = service
        head = {
            "id": answer.request.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": service.model_name,
        }
        self._head = b"data: " + encode(head)[:-1]
        # With include_usage, OpenAI's chunks all have the field, null in all but the last.
        self._tail = b',"usage":null}\n\n' if request.include_usage else b"}\n\n"
        self._prefixes = [
            self._head + b',"choices":[{"index":%d,"delta":{"content":' % index
            for index in range(len(answer.choices))
        ]
        self._detailed = request.logprobs or request.return_token_ids

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One event for each engine step: the chunks of its choices, written together."""
        opened = False
        async with aclosing(self.service.pieces(self.answer)) as steps:
            async for pieces in steps:
                event = b"".join([self._chunk(piece) for piece in pieces])
                if not opened:
                    opened = True
                    event = self._opening() + event
                if event:
                    yield event
        if self.request.include_usage:
            yield (
                self._head + b',"choices":[],"usage":' + encode(chat_usage(self.answer)) + b"}\n\n"
            )
        yield DONE

    def _opening(self) -> bytes:
        """A chunk with the role for each choice; then what ``echo`` repeats."""
        extra = b""
        if self.request.return_token_ids:
            extra = b',"prompt_token_ids":' + encode(self.answer.prompt_token_ids)
        delta = _opening_message(self.request, self.answer)
        return b"".join(
            self._head
            + b',"choices":[{"index":%d,"delta":' % index
            + encode(delta)
            + b',"logprobs":null,"finish_reason":null}]'
            + extra
            + self._tail
            for index in range(len(self.answer.choices))
        )

    def _chunk(self, piece: Piece) -> bytes:
        if not (piece.reasoning or piece.content or piece.finish_reason or self._detailed):
            return b""
        parts = [self._prefixes[piece.index], encode(piece.content)]
        if piece.reasoning:
            parts += (b',"reasoning_content":', encode(piece.reasoning))
        parts.append(b'},"logprobs":')
        parts.append(self._logprobs(piece) if self.request.logprobs else b"null")
        if piece.finish_reason is None:
            parts.append(b',"finish_reason":null')
        else:
            parts.append(b',"finish_reason":"%s","stop_reason":' % piece.finish_reason.encode())
            parts.append(encode(piece.stop_reason))
        if self.request.return_token_ids:
            parts += (b',"token_ids":', encode(piece.token_ids))
        parts.append(b"}]")
        if self.request.continuous_usage:
            parts += (b',"usage":', encode(chat_usage(self.answer)), b"}\n\n")
        else:
            parts.append(self._tail)
        return b"".join(parts)

    def _logprobs(self, piece: Piece) -> bytes:
        top = self.request.top_logprobs or 0
        return encode(chat_logprobs(piece.logprobs or [], top, self.service.text))
