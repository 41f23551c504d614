"""A response of /v1/responses while it grows: the whole object, its events, what is remembered."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from legato.answer import Answer, Piece
from legato.request import TokenLogprobs
from legato.server.errors import describe
from legato.server.logprobs import chat_logprobs
from legato.server.responses_items import Item, answer_item, new_item_id, output_text
from legato.server.responses_store import StoredResponse
from legato.server.service import Service
from legato.server.sse import named_event

if TYPE_CHECKING:
    from legato.server.responses import ResponsesRequest

PLACE = {"output_index": 0, "content_index": 0}


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
        self._item_id = new_item_id()
        self._created = int(time.time())
        self._echoed = answer.prompt.prefill * request.echo
        self._sequence = -1

    async def whole(self) -> dict[str, Any]:
        try:
            await self.service.complete(self.answer)
        finally:
            self._remember()
        return self.response(self._status())

    def _status(self) -> str:
        if self.error is not None:
            return "failed"
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
            "background": False,
            "error": self.error,
            "incomplete_details": {"reason": "max_output_tokens"} if ended and cut else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.service.model_name,
            "output": [self._output()] if ended else [],
            "parallel_tool_calls": False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": request.store,
            "temperature": params.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": _usage(self.answer) if ended else None,
        }

    def _output(self) -> Item:
        choice = self.answer.choices[0]
        status = "completed" if choice.finish_reason == "stop" else "incomplete"
        text = self._echoed + choice.text
        return answer_item(self._item_id, text, status, self._logprobs(choice.logprobs))

    def _logprobs(self, entries: Sequence[TokenLogprobs] | None) -> list[Any]:
        if not self.request.wants_logprobs:
            return []
        top = self.request.top_logprobs or 0
        return [*chat_logprobs([*(entries or ())], top, self.service.text)["content"]]

    def _remember(self) -> None:
        """Also what a client that hung up has got: it may go on from there."""
        choice = self.answer.choices[0]
        if not self.request.store or not choice.token_ids:
            return
        output = self._output()
        read = self.items[:-1] if self.continued else self.items
        spoken = answer_item(
            output["id"], self.answer.prompt.prefill + choice.text, output["status"]
        )
        response = self.response(self._status())
        self.service.responses.put(StoredResponse(response, self.items, [*read, spoken]))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """OpenAI's events in its order, with a delta for each step of the engine."""
        opened = False
        try:
            async with aclosing(self.service.pieces(self.answer)) as steps:
                async for pieces in steps:
                    event = b"" if opened else self._opening()
                    opened = True
                    event += b"".join(map(self._delta, pieces))
                    if event:
                        yield event
        except Exception as error:
            if not opened:
                raise
            body = describe(error)[1]["error"]
            self.error = {"code": body["code"] or body["type"], "message": body["message"]}
            yield self._event("response.failed", response=self.response("failed"))
            return
        finally:
            self._remember()
        yield self._closing()

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return named_event(kind, {"type": kind, "sequence_number": self._sequence, **fields})

    def _opening(self) -> bytes:
        begun = self.response("in_progress")
        item = {**answer_item(self._item_id, "", "in_progress"), "content": []}
        parts = [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=item),
            self._event(
                "response.content_part.added", item_id=self._item_id, part=output_text(""), **PLACE
            ),
        ]
        if self._echoed:
            parts.append(self._delta(Piece(0, self._echoed, [], None)))
        return b"".join(parts)

    def _delta(self, piece: Piece) -> bytes:
        logprobs = self._logprobs(piece.logprobs)
        if not piece.text and not logprobs:
            return b""
        return self._event(
            "response.output_text.delta",
            item_id=self._item_id,
            **PLACE,
            delta=piece.text,
            logprobs=logprobs,
        )

    def _closing(self) -> bytes:
        item = self._output()
        (part,) = item["content"]
        where = {"item_id": self._item_id, **PLACE}
        said = {"text": part["text"], "logprobs": part["logprobs"]}
        status = self._status()
        return b"".join(
            (
                self._event("response.output_text.done", **where, **said),
                self._event("response.content_part.done", **where, part=part),
                self._event("response.output_item.done", output_index=0, item=item),
                self._event(f"response.{status}", response=self.response(status)),
            )
        )


def _usage(answer: Answer) -> dict[str, Any]:
    read, written = len(answer.prompt_token_ids), answer.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
