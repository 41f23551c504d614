"""What clients send as a conversation, checked and brought into the shape a template reads.

Content is a string, nothing, or a list of text parts. Parts are joined with nothing between them:
any separator would be text that nobody wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Literal

from legato.errors import RequestError, unknown_field

Message = dict[str, Any]
ContentFormat = Literal["string", "parts"]

MAX_ROLES, MAX_ROLE, MAX_KEY = 32, 256, 256
MARKS = ("prefix", "partial")  # Mistral's and DeepSeek's, and Kimi's
_CALLS = ("tool_calls", "function_call")
_UNSHOWN = (*_CALLS, "audio")  # words of an answer that few templates show
_BESIDE = (
    "refusal",
    "annotations",
    "parsed",
)  # what OpenAI's client holds beside an answer's words
_KEYS = frozenset(
    ("role", "content", "reasoning_content", "reasoning", "name", "tool_call_id", *MARKS, *_BESIDE)
)
_TEXT_PARTS = ("text", "input_text", "output_text")


def text_of(content: Any, field: str) -> str:
    """The text of a message's content. Raises RequestError naming ``field``."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{field} must be a string or a list of text parts", field)
    return "".join(part_text(part, f"{field}[{index}]") for index, part in enumerate(content))


def part_text(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS:
        kind = part.get("type") if isinstance(part, dict) else part
        raise RequestError(f"{field}: only text parts are supported, not {kind!r}", field)
    text = part.get("text")
    if not isinstance(text, str):
        raise RequestError(f"{field}.text must be a string", f"{field}.text")
    return text


def check_keys(messages: list[Message], sources: Collection[str]) -> None:
    """Raises RequestError for what the templates in ``sources`` would drop: calls of tools, and keys that
    neither clients nor these templates know. What is no message, ``prepare`` says so."""
    known = {*_KEYS}
    for index, message in enumerate(messages):
        for key, value in message.items() if isinstance(message, dict) else ():
            if key not in known and value not in (None, [], ""):
                _check_key(key, f"messages[{index}].", sources)
                known.add(key)


def _check_key(key: str, place: str, sources: Collection[str]) -> None:
    if any(_reads(source, key) for source in sources):
        return
    if key not in _UNSHOWN:
        raise unknown_field(key, _KEYS, place)
    problem = "is not supported: the chat template shows none"
    raise RequestError(f"{place}{key} {problem}", place + key)


def _reads(source: str, key: str) -> bool:
    """Whether a template names the key, as an attribute or as an item."""
    return len(key) <= MAX_KEY and bool(re.search(rf"(?:\.|['\"]){re.escape(key)}\b", source))


def prepare(
    messages: list[Message],
    content_format: ContentFormat,
    role_of: Callable[[str], str | None],
) -> list[Message]:
    """Copies of the messages with their content as the template wants it, in roles that it shows
    (``ChatTemplate.role``).

    Raises RequestError for a message without a role, or with content that is not text.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of at least one message", "messages")
    roles: dict[str, str | None] = {}

    def known(role: str) -> str | None:
        if role not in roles:
            if len(roles) == MAX_ROLES or len(role) > MAX_ROLE:
                problem = f"at most {MAX_ROLES} roles of {MAX_ROLE} characters can be shown"
                raise RequestError(f"messages: {problem}", "messages")
            roles[role] = role_of(role)
        return roles[role]

    return [
        _prepare(message, index, content_format, known) for index, message in enumerate(messages)
    ]


def _prepare(
    message: Any, index: int, content_format: ContentFormat, role_of: Callable[[str], str | None]
) -> Message:
    field = f"messages[{index}]"
    if not isinstance(message, dict):
        raise RequestError(f"{field} must be an object", field)
    if not isinstance(message.get("role"), str):
        raise RequestError(f"{field}.role must be a string", f"{field}.role")
    role = role_of(message["role"])
    if role is None:
        problem = f"the chat template shows no messages of the role {message['role']!r}"
        raise RequestError(f"{field}.role: {problem}", f"{field}.role")
    content = message.get("content")
    text = text_of(content, f"{field}.content")
    kept: Message = {
        name: value for name, value in message.items() if not _is_left_out(name, value)
    }
    kept["role"] = role
    reasoning = reasoning_of(kept, field)
    if reasoning is not None:
        kept["reasoning_content"] = reasoning
    if content is None and any(name in kept for name in _CALLS):
        return kept  # templates ask then whether there is any
    return with_text(kept, text, content_format)


def _is_left_out(name: str, value: Any) -> bool:
    """Templates ask whether a key is there: what clients write for nothing must not be."""
    if name == "content":
        return False
    return name in MARKS or value is None or (name == "tool_calls" and value == [])


def reasoning_of(message: Message, where: str) -> str | None:
    """A message's reasoning, by either of its names; None if it has no such field."""
    for name in ("reasoning_content", "reasoning"):
        reasoning = message.get(name)
        if reasoning is None:
            continue
        if not isinstance(reasoning, str):
            raise RequestError(f"{where}.{name} must be a string", f"{where}.{name}")
        return reasoning
    return None


def marked(messages: list[Message]) -> str | None:
    """``prefix`` or ``partial``, if the last message has it: the client asks to continue it.

    Raises RequestError for a mark that is no boolean, or on another message.
    """
    found = None
    for index, message in enumerate(messages):
        for name in MARKS:
            value = message.get(name)
            field = f"messages[{index}].{name}"
            if value is not None and not isinstance(value, bool):
                raise RequestError(f"{field} must be true or false", field)
            if value and index < len(messages) - 1:
                raise RequestError(f"{field}: only the last message can be continued", field)
            found = name if value else found
    return found


def with_text(message: Message, text: str, content_format: ContentFormat) -> Message:
    """A copy of the message that says ``text``."""
    content = text if content_format == "string" else [{"type": "text", "text": text}]
    return {**message, "content": content}
