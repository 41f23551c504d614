"""Items of /v1/responses: what a client sends, what is remembered, and the turns a template reads."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from legato.errors import RequestError
from legato.server.turns import Turn, TurnFormat
from legato.text.messages import text_of

Item = dict[str, Any]
"""A message: id, type, status, role, and content as a list of one part; or thoughts, which have no
role, but an empty summary."""

MAX_ITEMS = 50_000
STATUSES = ("in_progress", "completed", "incomplete")
TURNS = TurnFormat(
    roles={"user": "user", "assistant": "assistant", "system": "system", "developer": "system"},
    hints=frozenset({"type", "id", "status", "phase"}),
    thoughts="",
)
_REASONING_KEYS = frozenset({"type", "id", "status", "content", "summary", "encrypted_content"})


def new_item_id(kind: str = "message") -> str:
    return f"{'rs' if kind == 'reasoning' else 'msg'}_{uuid.uuid4().hex}"


def read_input(given: str | list[dict[str, Any]]) -> list[Item]:
    """Raises RequestError naming the item at fault."""
    if len(given) > MAX_ITEMS and not isinstance(given, str):
        raise RequestError(f"input has {len(given)} items, at most {MAX_ITEMS} are", "input")
    if isinstance(given, str):
        return [_item(new_item_id(), "user", given, "completed")]
    return [_read(item, f"input[{index}]") for index, item in enumerate(given)]


def _read(given: dict[str, Any], field: str) -> Item:
    kind = given.get("type", "message")
    if kind not in ("message", "reasoning"):
        raise RequestError(
            f"{field}.type: only messages and reasoning are supported, not {kind!r}",
            f"{field}.type",
        )
    status = given.get("status") or "completed"
    if status not in STATUSES:
        raise RequestError(
            f"{field}.status must be one of {', '.join(STATUSES)}, got {status!r}",
            f"{field}.status",
        )
    item_id = str(given.get("id") or new_item_id(kind))
    if kind == "reasoning":
        return thoughts_item(item_id, _thoughts(given, field), status)
    text = TURNS.read(given, field)["content"]
    return _item(item_id, given["role"], text, status)


def _thoughts(given: dict[str, Any], field: str) -> str:
    """The text of an item of thoughts."""
    for name, value in given.items():
        supported = name in _REASONING_KEYS - {"summary", "encrypted_content"}
        if not supported and value not in (None, []):
            known = "is not supported" if name in _REASONING_KEYS else "is unknown"
            raise RequestError(f"{field}.{name} {known}", f"{field}.{name}")
    parts = given.get("content") or []
    if not isinstance(parts, list):
        raise RequestError(f"{field}.content must be a list of parts", f"{field}.content")
    texts = [
        {**part, "type": "text"}
        if isinstance(part, dict) and part.get("type") == "reasoning_text"
        else part
        for part in parts
    ]
    return text_of(texts, f"{field}.content")


def answer_item(item_id: str, text: str, status: str, logprobs: Sequence[Any] = ()) -> Item:
    return _item(item_id, "assistant", text, status, logprobs)


def thoughts_item(item_id: str, text: str, status: str) -> Item:
    head = {"id": item_id, "type": "reasoning", "status": status, "summary": []}
    return {**head, "content": [reasoning_text(text)]}


def _item(item_id: str, role: str, text: str, status: str, logprobs: Sequence[Any] = ()) -> Item:
    head = {"id": item_id, "type": "message", "status": status, "role": role}
    if role == "assistant":
        return {**head, "content": [output_text(text, logprobs)]}
    return {**head, "content": [{"type": "input_text", "text": text}]}


def output_text(text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*logprobs]}


def reasoning_text(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def is_thoughts(item: Item) -> bool:
    return bool(item["type"] == "reasoning")


def is_answer(item: Item) -> bool:
    """Whether an answer, or the thoughts before one, can be gone on with from here."""
    return is_thoughts(item) or bool(item["role"] == "assistant")


def before_answer(items: list[Item]) -> list[Item]:
    """Without the answer that the items end with, and its thoughts."""
    end = len(items) - (not is_thoughts(items[-1]))
    while end and is_thoughts(items[end - 1]):
        end -= 1
    return items[:end]


def text_of_item(item: Item) -> str:
    return "".join(part["text"] for part in item["content"])


def turns_of(items: Sequence[Item], instructions: str | None) -> list[Turn]:
    """The items as a template reads them; instructions are what the system says first.

    Thoughts belong to the answer behind them; the last ones may have none yet.
    """
    turns: list[Turn] = []
    thoughts: str | None = None
    for item in items:
        if is_thoughts(item):
            thoughts = (thoughts or "") + text_of_item(item)
            continue
        turn = {"role": TURNS.roles[item["role"]], "content": text_of_item(item)}
        if thoughts and turn["role"] == "assistant":
            turn["reasoning_content"] = thoughts
        turns.append(turn)
        thoughts = None
    if thoughts is not None:
        turns.append({"role": "assistant", "content": "", "reasoning_content": thoughts})
    if instructions:
        if turns and turns[0]["role"] == "system":  # many templates allow one such turn only
            instructions += "\n\n" + turns.pop(0)["content"]
        turns.insert(0, {"role": "system", "content": instructions})
    return turns
