"""A response of /v1/responses while it grows: the whole object, its events, what is remembered."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from legato.answer import Answer, Piece
from legato.request import TokenLogprobs
from legato.server.errors import describe
from legato.server.load import Place
from legato.server.logprobs import chat_logprobs
from legato.server.responses_events import Events
from legato.server.responses_items import (
    Item,
    answer_item,
    before_answer,
    new_item_id,
    thoughts_item,
)
from legato.server.responses_request import ResponsesRequest
from legato.server.responses_store import StoredResponse
from legato.server.service import Service
from legato.server.structured import text_format
from legato.text.reasoning_split import Parted

NOTHING = Parted("", "")


class Reply:
    """``items`` is what the model read; the last of them is the answer's beginning if ``continued``."""

    def __init__(
        self,
        request: ResponsesRequest,
        answer: Answer,
        service: Service,
        items: list[Item],
        *,
        continued: bool,
    ) -> None:
        self.request = request
        self.answer = answer
        self.service = service
        self.items = items
        self.continued = continued
        self.error: dict[str, Any] | None = None
        self._ids = {kind: new_item_id(kind) for kind in ("reasoning", "message")}
        self._created = int(time.time())
        self._echoed = answer.given if request.echo else NOTHING
        self._first_entry: int | None = None  # of the content's logprobs
        self._heard = 0  # tokens, up to the last piece; the answer may be further
        self._spoken = ""  # up to the content

    async def whole(self) -> dict[str, Any]:
        try:
            async with aclosing(self.service.pieces(self.answer)) as steps:
                async for pieces in steps:
                    for piece in pieces:
                        self._entries(piece)
        finally:
            self._remember()
        return self.response(self._status())

    def _status(self) -> str:
        if self.error is not None:
            return "failed"
        if self.request.background and self.answer.choices[0].finish_reason is None:
            return "cancelled"
        return "completed" if self.answer.choices[0].finish_reason == "stop" else "incomplete"

    def response(self, status: str) -> dict[str, Any]:
        """The response object; its output is there once nothing more will come."""
        request, params = self.request, self.answer.request.params
        ended = status != "in_progress"
        cut = self.answer.choices[0].finish_reason == "length"
        return {
            "id": self.answer.request.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": request.background,
            "error": self.error,
            "incomplete_details": {"reason": "max_output_tokens"} if ended and cut else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.service.model_name,
            "output": self._output(self._echoed) if ended else [],
            "parallel_tool_calls": False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {
                "effort": request.reasoning.effort if request.reasoning else None,
                "summary": None,
            },
            "store": request.store,
            "temperature": params.temperature,
            "text": {"format": text_format(request.text)},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": _usage(self.answer) if ended else None,
        }

    def _output(self, before: Parted, *, logprobs: bool = True) -> list[Item]:
        """The thoughts, if there are any, and the message; ``before`` is what comes before the new."""
        choice = self.answer.choices[0]
        reasoning, content = before.reasoning + choice.reasoning, before.content + choice.content
        status = "completed" if choice.finish_reason == "stop" else "incomplete"
        items = []
        if reasoning:
            is_over = content or self.answer.is_cut_behind_thoughts
            ended = "completed" if is_over else status
            items.append(thoughts_item(self._ids["reasoning"], reasoning, ended))
        if content or not reasoning or self.answer.is_cut_behind_thoughts:
            first = self._first_entry if logprobs else None
            entries = self._logprobs([] if first is None else choice.logprobs[first:])
            items.append(answer_item(self._ids["message"], content, status, entries))
        return items

    def _entries(self, piece: Piece) -> list[TokenLogprobs]:
        """Those of ``piece`` that are the content's; with the first of them, those held back."""
        self._heard += len(piece.token_ids)
        if self._first_entry is not None:
            return piece.logprobs or []
        self._spoken += piece.text
        if not piece.content:
            return []
        is_all = self._spoken == piece.content
        self._first_entry = 0 if is_all else self._content_start(piece.content)
        return self.answer.choices[0].logprobs[self._first_entry : self._heard]

    def _content_start(self, content: str) -> int:
        """Which token ``content`` begins with, that has come behind a mark.

        It is the end of what the tokens heard spell, but for the beginning of another character.
        """
        tokenizer = self.service.text
        spelled = [
            b"" if id in tokenizer.special_ids else tokenizer.token_bytes(id)
            for id in self.answer.choices[0].token_ids[: self._heard]
        ]
        valid = content.partition("\N{REPLACEMENT CHARACTER}")[0]
        left = b"".join(spelled).rfind(valid.encode())
        for index, token in enumerate(spelled):
            left -= len(token)
            if left < 0:
                return index
        return len(spelled) - 1

    def _logprobs(self, entries: Sequence[TokenLogprobs]) -> list[Any]:
        if not self.request.wants_logprobs:
            return []
        top = self.request.top_logprobs or 0
        return [*chat_logprobs([*entries], top, self.service.text)["content"]]

    def remember_begun(self) -> None:
        """In the background: who asks is told that it is in progress."""
        response = self.response("in_progress")
        self.service.responses.put(StoredResponse(response, self.items, self.items))

    def _remember(self) -> None:
        """Also what a client that hung up has got: it may go on from there."""
        nothing = not self.answer.choices[0].token_ids and not self.request.background
        if not self.request.store or nothing:
            return
        read = before_answer(self.items) if self.continued else self.items
        spoken = self._output(self.answer.given if self.continued else NOTHING, logprobs=False)
        response = self.response(self._status())
        self.service.responses.put(StoredResponse(response, self.items, [*read, *spoken]))

    async def events(self, place: Place | None = None) -> AsyncGenerator[bytes, None]:
        """OpenAI's events in its order, with a delta for each step of the engine."""
        events = Events(self._ids)
        opened = False
        try:
            async with aclosing(self.service.pieces(self.answer, place)) as steps:
                async for pieces in steps:
                    event = b"" if opened else self._opening(events)
                    opened = True
                    for piece in pieces:
                        logprobs = self._logprobs(self._entries(piece))
                        event += events.add(piece.reasoning, piece.content, logprobs)
                    if event:
                        yield event
        except Exception as error:
            if not opened:
                if not self.request.background:
                    raise
                yield self._opening(events)
            body = describe(error)[1]["error"]
            self.error = {"code": body["code"] or body["type"], "message": body["message"]}
            yield events.event("response.failed", response=self.response("failed"))
            return
        finally:
            self._remember()
        response = self.response(self._status())
        yield events.end(response["output"])
        yield events.event(f"response.{response['status']}", response=response)

    def _opening(self, events: Events) -> bytes:
        begun = self.response("in_progress")
        return (
            events.event("response.created", response=begun)
            + events.event("response.in_progress", response=begun)
            + events.add(*self._echoed, [])
        )


def _usage(answer: Answer) -> dict[str, Any]:
    read, written = len(answer.prompt_token_ids), answer.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": read + written,
    }
