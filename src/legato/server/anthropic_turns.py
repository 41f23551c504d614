"""Messages of /v1/messages as turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from legato.errors import RequestError
from legato.server.anthropic_request import CountTokensRequest, MessagesRequest
from legato.server.turns import Turn, TurnFormat, render
from legato.text.continuation import Prompt
from legato.text.messages import part_text, text_of

if TYPE_CHECKING:
    from legato.server.service import Service

TURNS = TurnFormat(roles={"user": "user", "assistant": "assistant"})


def prompt_of(request: MessagesRequest | CountTokensRequest, service: Service) -> Prompt:
    if not request.messages:
        raise RequestError("messages: at least one message is required", "messages")
    turns = [_read(turn, f"messages[{i}]") for i, turn in enumerate(request.messages)]
    says = _says_content(request.messages[-1])
    turns = _combined(turns)
    begun = turns[-1]["content"] if turns[-1]["role"] == "assistant" else ""
    if service.config.anthropic_strict and begun != begun.rstrip():
        raise RequestError(
            "messages: final assistant content cannot end with trailing whitespace", "messages"
        )
    system = text_of(request.system, "system")
    if system:
        turns.insert(0, {"role": "system", "content": system})
    # Thoughts with an empty text after them are over, as an empty content would not say by itself.
    is_over = "reasoning_content" in turns[-1] and says and not begun
    continues = service.config.assistant_prefill == "continue"
    return render(turns, service, request, continued="content" if is_over and continues else None)


def _read(message: Any, field: str) -> Turn:
    """A message whose content may have blocks of thoughts before its text."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return TURNS.read(message, field)
    thoughts, text = "", ""
    for index, block in enumerate(content):
        where = f"{field}.content[{index}]"
        if not isinstance(block, dict) or block.get("type") != "thinking":
            text += part_text(block, where)
            continue
        if text:
            raise RequestError(f"{where}: thoughts come before the text", where)
        part = block.get("thinking")
        if not isinstance(part, str):
            raise RequestError(f"{where}.thinking must be a text", f"{where}.thinking")
        thoughts += part
    return TURNS.read({**message, "content": text, "reasoning_content": thoughts}, field)


def _says_content(message: dict[str, Any]) -> bool:
    """Whether the message has a text, be it empty."""
    content = message.get("content")
    if not isinstance(content, list):
        return content is not None
    return any(isinstance(part, str) or part.get("type") == "text" for part in content)


def _combined(turns: list[Turn]) -> list[Turn]:
    """Neighbours of one role as one turn, which is what the original makes of them.

    An answer in two messages is one answer: nothing comes between. Two of the user's are two
    paragraphs.
    """
    combined: list[Turn] = []
    for turn in turns:
        if not combined or combined[-1]["role"] != turn["role"]:
            combined.append({**turn})
            continue
        last = combined[-1]
        between = "" if turn["role"] == "assistant" else "\n\n"
        if "reasoning_content" in turn:
            last["reasoning_content"] = (
                last.get("reasoning_content", "") + turn["reasoning_content"]
            )
        last["content"] += between + turn["content"]
    return combined
