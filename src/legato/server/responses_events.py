"""The events of a streamed response: its items open and close one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from legato.server.responses_items import (
    Item,
    answer_item,
    output_text,
    reasoning_text,
    thoughts_item,
)
from legato.server.sse import named_event

TEXTS = {"reasoning": "reasoning_text", "message": "output_text"}


class Events:
    """``ids``: of the item of each kind. Thoughts come before the message, if they come."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self._ids = ids
        self._sequence = -1
        self._kinds: list[str] = []  # of the items so far; the last one is open
        self._text = ""  # of the open item

    def event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return named_event(kind, {"type": kind, "sequence_number": self._sequence, **fields})

    def add(self, reasoning: str, content: str, logprobs: list[Any]) -> bytes:
        event = self._switch("reasoning") + self._delta(reasoning) if reasoning else b""
        if content or logprobs:
            event += self._switch("message") + self._delta(content, logprobs=logprobs)
        return event

    def end(self, output: list[Item]) -> bytes:
        """``output``: the items as they have become. An answer without a word is a message."""
        kind = str(output[-1]["type"])
        return self._switch(kind) + self._close(output[-1])

    def _switch(self, kind: str) -> bytes:
        """The item of that kind is the open one from here."""
        if self._kinds and self._kinds[-1] == kind:
            return b""
        event = b""
        if self._kinds:  # thoughts, which are over
            event = self._close(thoughts_item(self._ids["reasoning"], self._text, "completed"))
        self._kinds.append(kind)
        self._text = ""
        item = (thoughts_item if kind == "reasoning" else answer_item)(
            self._ids[kind], "", "in_progress"
        )
        part = reasoning_text("") if kind == "reasoning" else output_text("")
        return (
            event
            + self.event(
                "response.output_item.added",
                output_index=self._place["output_index"],
                item={**item, "content": []},
            )
            + self.event("response.content_part.added", **self._where, part=part)
        )

    @property
    def _place(self) -> dict[str, int]:
        return {"output_index": len(self._kinds) - 1, "content_index": 0}

    @property
    def _where(self) -> dict[str, Any]:
        return {"item_id": self._ids[self._kinds[-1]], **self._place}

    def _delta(self, text: str, **more: Any) -> bytes:
        self._text += text
        name = TEXTS[self._kinds[-1]]
        return self.event(f"response.{name}.delta", **self._where, delta=text, **more)

    def _close(self, item: Item) -> bytes:
        (part,) = item["content"]
        name = TEXTS[self._kinds[-1]]
        said = {key: part[key] for key in ("text", "logprobs") if key in part}
        index = self._place["output_index"]
        return (
            self.event(f"response.{name}.done", **self._where, **said)
            + self.event("response.content_part.done", **self._where, part=part)
            + self.event("response.output_item.done", output_index=index, item=item)
        )
