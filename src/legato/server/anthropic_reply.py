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
from legato.text.reasoning_split import Parted

SIGNATURE = "unsigned"
"""Of thoughts: the original's says that they are its own, here nobody asks. Clients want one."""

NOTHING = Parted("", "")

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _describe(error: Exception) -> tuple[int, dict[str, Any]]:
    status, body = describe(error)
    kind = ERROR_TYPES.get(status, "api_error")
    return status, {"type": "error", "error": {"type": kind, "message": body["error"]["message"]}}


ANTHROPIC = Dialect(_describe, lambda body: named_event("error", body))


def message(answer: Answer, service: Service, *, echo: bool) -> dict[str, Any]:
    choice = answer.choices[0]
    given = answer.given if echo else NOTHING
    said = {
        "thinking": given.reasoning + choice.reasoning,
        "text": given.content + choice.content,
    }
    blocks = [{**_block(kind), kind: text} for kind, text in said.items() if text]
    if answer.is_cut_behind_thoughts and not given.content:
        blocks.append(_block("text"))
    return {
        **_head(answer, service),
        "content": blocks or [_block("text")],
        **_ending(choice),
        "usage": _usage(answer),
    }


def _head(answer: Answer, service: Service) -> dict[str, Any]:
    head = {"id": answer.request.id, "type": "message", "role": "assistant"}
    return {**head, "model": service.model_name}


def _block(kind: str) -> dict[str, Any]:
    """A content block with nothing in it."""
    if kind == "thinking":
        return {"type": "thinking", "thinking": "", "signature": SIGNATURE}
    return {"type": "text", "text": "", "citations": None}


def _ending(choice: Choice) -> dict[str, Any]:
    reason = "max_tokens" if choice.finish_reason == "length" else "end_turn"
    if isinstance(choice.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_reason}
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(answer: Answer) -> dict[str, Any]:
    """As in the original, ``input_tokens`` are those that came from no cache."""
    return {
        "input_tokens": len(answer.prompt_token_ids) - answer.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"thinking_tokens": answer.reasoning_tokens},
    }


async def stream(answer: Answer, service: Service, *, echo: bool) -> AsyncGenerator[bytes, None]:
    """The original's events in its order, with a delta for each step of the engine."""
    blocks = Blocks()
    opened = False
    async with aclosing(service.pieces(answer)) as steps:
        async for pieces in steps:
            event = b""
            if not opened:
                opened = True
                event = _opening(answer, service)
                if echo:
                    event += blocks.add(*answer.given)
            event += b"".join(blocks.add(piece.reasoning, piece.content) for piece in pieces)
            if event:
                yield event
    delta = {
        "type": "message_delta",
        "delta": _ending(answer.choices[0]),
        "usage": _usage(answer),
    }
    yield (
        blocks.end(in_text=answer.is_cut_behind_thoughts)
        + named_event("message_delta", delta)
        + named_event("message_stop", {"type": "message_stop"})
    )


def _opening(answer: Answer, service: Service) -> bytes:
    begun = {
        **_head(answer, service),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            **_usage(answer),
            "output_tokens": 0,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }
    return named_event("message_start", {"type": "message_start", "message": begun})


class Blocks:
    """The content blocks of a stream, one after the other: thoughts, then text."""

    def __init__(self) -> None:
        self._index = -1
        self._kind = ""  # of the block that is open

    def add(self, reasoning: str, content: str) -> bytes:
        return self._add("thinking", reasoning) + self._add("text", content)

    def _add(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        event = b"" if kind == self._kind else self._close() + self._open(kind)
        return event + self._delta(kind, text)

    def end(self, *, in_text: bool) -> bytes:
        """An answer without a word has an empty text, and so has one that is ``in_text``."""
        if self._kind == "text" or (self._kind and not in_text):
            return self._close()
        return self._close() + self._open("text") + self._close()

    def _open(self, kind: str) -> bytes:
        self._index, self._kind = self._index + 1, kind
        block = _block(kind)
        if kind == "thinking":
            block["signature"] = ""  # it comes with the end
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        event = named_event("content_block_start", start)
        return event if self._index else event + named_event("ping", {"type": "ping"})

    def _delta(self, kind: str, text: str) -> bytes:
        name = kind.encode()
        return _DELTA % (self._index, name, name, encode(text))

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        signed = self._delta("signature", SIGNATURE) if self._kind == "thinking" else b""
        stop = {"type": "content_block_stop", "index": self._index}
        return signed + named_event("content_block_stop", stop)


_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"%s_delta","%s":%s}}\n\n'
)
