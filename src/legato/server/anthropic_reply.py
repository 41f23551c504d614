"""What /v1/messages sends back: a message, whole or as events, and errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from legato.answer import Answer, Choice
from legato.server.dialect import Dialect
from legato.server.errors import describe
from legato.server.service import Service
from legato.server.sse import encode, named_event

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


def _describe(error: Exception) -> tuple[int, dict[str, Any]]:
    status, body = describe(error)
    kind = ERROR_TYPES.get(status, "api_error")
    return status, {"type": "error", "error": {"type": kind, "message": body["error"]["message"]}}


ANTHROPIC = Dialect(_describe, lambda body: named_event("error", body))


def message(answer: Answer, service: Service, *, echo: bool) -> dict[str, Any]:
    choice = answer.choices[0]
    text = answer.prompt.prefill * echo + choice.text
    return {
        **_head(answer, service),
        "content": [_block(text)],
        **_ending(choice),
        "usage": _usage(answer),
    }


def _head(answer: Answer, service: Service) -> dict[str, Any]:
    head = {"id": answer.request.id, "type": "message", "role": "assistant"}
    return {**head, "model": service.model_name}


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


def _ending(choice: Choice) -> dict[str, Any]:
    reason = "max_tokens" if choice.finish_reason == "length" else "end_turn"
    if isinstance(choice.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_reason}
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(answer: Answer) -> dict[str, int]:
    """As in the original, ``input_tokens`` are those that came from no cache."""
    return {
        "input_tokens": len(answer.request.prompt_token_ids) - answer.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": answer.completion_tokens,
    }


async def stream(answer: Answer, service: Service, *, echo: bool) -> AsyncGenerator[bytes, None]:
    """The original's events in its order, with a delta for each step of the engine."""
    opened = False
    async with aclosing(service.pieces(answer)) as steps:
        async for pieces in steps:
            event = b"".join(_delta(piece.text) for piece in pieces if piece.text)
            if not opened:
                opened = True
                event = _opening(answer, service) + _delta(answer.prompt.prefill) * echo + event
            if event:
                yield event
    delta = {
        "type": "message_delta",
        "delta": _ending(answer.choices[0]),
        "usage": _usage(answer),
    }
    yield (
        named_event("content_block_stop", {"type": "content_block_stop", "index": 0})
        + named_event("message_delta", delta)
        + named_event("message_stop", {"type": "message_stop"})
    )


def _opening(answer: Answer, service: Service) -> bytes:
    begun = {
        **_head(answer, service),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**_usage(answer), "output_tokens": 0},
    }
    start = {"type": "content_block_start", "index": 0, "content_block": _block("")}
    return (
        named_event("message_start", {"type": "message_start", "message": begun})
        + named_event("content_block_start", start)
        + named_event("ping", {"type": "ping"})
    )


_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":%s}}\n\n'
)


def _delta(text: str) -> bytes:
    return _DELTA % encode(text)
