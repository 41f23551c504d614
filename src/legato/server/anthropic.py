"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients know them.

A conversation that ends with a message of the assistant is continued where that message ends.
"""

from __future__ import annotations

import uuid

from starlette.requests import Request
from starlette.responses import Response

from legato.answer import Answer
from legato.server.admission import read_request
from legato.server.anthropic_reply import ANTHROPIC, message, stream
from legato.server.anthropic_request import (
    NO_EFFECT,
    UNSUPPORTED,
    CountTokensRequest,
    MessagesRequest,
)
from legato.server.anthropic_turns import prompt_of
from legato.server.errors import json_response
from legato.server.guidance import guidance_of
from legato.server.kept_streams import event_stream
from legato.server.protocol import naming
from legato.server.routes import Routes
from legato.server.service import Service, off_loop
from legato.server.sse import unless_disconnected
from legato.server.structured import (
    grammar_of,
)
from legato.text.continuation import Prompt

router = Routes("Anthropic", prefix="/v1/messages", dialect=ANTHROPIC)


@router.post("", MessagesRequest, NO_EFFECT, UNSUPPORTED)
async def messages(http: Request, service: Service) -> Response:
    """Answer a conversation, or continue the answer it ends with."""
    service.check_ready()
    request, size = await read_request(http, MessagesRequest, NO_EFFECT, UNSUPPORTED)
    service.check_model(request.model)
    window = service.resume_window(request.resume_window, streamed=request.stream)
    prompt = await off_loop(size, lambda: prompt_of(request, service))
    grammar = await grammar_of(request, prompt, service)
    answer = _begin(request, prompt, service, grammar)
    if request.stream:
        events = stream(answer, service, echo=request.echo)
        return event_stream(service.streams, answer.request.id, events, window, ANTHROPIC)
    await unless_disconnected(http, service.complete(answer))
    return json_response(message(answer, service, echo=request.echo))


@router.post("/count_tokens", CountTokensRequest, NO_EFFECT, UNSUPPORTED)
async def count_tokens(http: Request, service: Service) -> Response:
    """How many tokens the model would read."""
    service.check_ready()
    request, size = await read_request(http, CountTokensRequest, NO_EFFECT, UNSUPPORTED)
    service.check_model(request.model)
    prompt = await off_loop(size, lambda: prompt_of(request, service))
    return json_response({"input_tokens": len(prompt.token_ids)})


def _begin(request: MessagesRequest, prompt: Prompt, service: Service, grammar: str) -> Answer:
    with naming({"stop": "stop_sequences"}):
        return service.answer(
            prompt,
            request.params(service.engine.info.default_sampling, stop=request.stop_sequences),
            request_id=f"msg_{uuid.uuid4().hex}",
            priority=request.priority,
            cache_salt=request.cache_salt,
            field="messages",
            guidance=guidance_of(request, prompt, service, grammar),
        )
