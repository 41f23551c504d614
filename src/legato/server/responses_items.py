"""Items of /v1/responses: what a client sends, what is remembered, and the turns a template reads."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from legato.errors import RequestError
from legato.server.turns import Turn, TurnFormat

Item = dict[str, Any]  # a message: id, type, status, role, and content as a list of one part

STATUSES = ("in_progress", "completed", "incomplete")
TURNS = TurnFormat(
    roles={"user": "user", "assistant": "assistant", "system": "system", "developer": "system"},
    hints=frozenset({"type", "id", "status", "phase"}),
)


def new_item_id() -> str:
    return f"msg_{uuid.uuid4().hex}"


def read_input(given: str | list[dict[str, Any]]) -> list[Item]:
    """Raises RequestError naming the item at fault."""
    if isinstance(given, str):
        return [_item(new_item_id(), "user", given, "completed")]
    return [_read(item, f"input[{index}]") for index, item in enumerate(given)]


def _read(given: dict[str, Any], field: str) -> Item:
    kind = given.get("type", "message")
    if kind != "message":
        raise RequestError(
            f"{field}.type: only messages are supported, not {kind!r}", f"{field}.type"
        )
    status = given.get("status") or "completed"
    if status not in STATUSES:
        raise RequestError(
            f"{field}.status must be one of {', '.join(STATUSES)}, got {status!r}",
            f"{field}.status",
        )
    text = TURNS.read(given, field)["content"]
    return _item(str(given.get("id") or new_item_id()), given["role"], text, status)


def answer_item(item_id: str, text: str, status: str, logprobs: Sequence[Any] = ()) -> Item:
    return _item(item_id, "assistant", text, status, logprobs)


def _item(item_id: str, role: str, text: str, status: str, logprobs: Sequence[Any] = ()) -> Item:
    head = {"id": item_id, "type": "message", "status": status, "role": role}
    if role == "assistant":
        return {**head, "content": [output_text(text, logprobs)]}
    return {**head, "content": [{"type": "input_text", "text": text}]}


def output_text(text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*logprobs]}


def text_of_item(item: Item) -> str:
    return "".join(part["text"] for part in item["content"])


def turns_of(items: Sequence[Item], instructions: str | None) -> list[Turn]:
    """The items as a template reads them; instructions are what the system says first."""
    turns = [{"role": TURNS.roles[item["role"]], "content": text_of_item(item)} for item in items]
    if instructions:
        if turns and turns[0]["role"] == "system":  # many templates allow one such turn only
            instructions += "\n\n" + turns.pop(0)["content"]
        turns.insert(0, {"role": "system", "content": instructions})
    return turns
