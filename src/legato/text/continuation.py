"""From messages to the prompt: the one place that decides where the answer begins.

A conversation that ends with the assistant's message is continued there, byte for byte; any other is
given the template's generation prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from legato.errors import RequestError
from legato.text.messages import Message, prepare, text_of
from legato.text.seam import answer_header
from legato.text.template import RESERVED, ChatTemplate
from legato.text.vocabulary import Tokenizer

_UNCONTINUABLE = ("tool_calls", "function_call", "reasoning_content", "reasoning")


@dataclass(frozen=True)
class Prompt:
    """What the model is given. ``text == header + prefill``, and ``seam == len(header)``."""

    text: str
    token_ids: list[int]
    seam: int  # character offset in ``text`` where the answer begins
    prefill: str  # the part of the answer that the client wrote


def build_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: list[Message],
    *,
    continue_final_message: bool | None = None,
    add_generation_prompt: bool | None = None,
    tools: list[dict[str, Any]] | None = None,
    documents: list[dict[str, Any]] | None = None,
    template_kwargs: dict[str, Any] | None = None,
) -> Prompt:
    """Render and tokenise a conversation. With neither flag given, the last message decides.

    Raises RequestError naming the field at fault.
    """
    turns = prepare(messages, template.content_format)
    options = {**_checked(template_kwargs), "tools": tools, "documents": documents}
    if continues(messages, continue_final_message, add_generation_prompt):
        last = len(messages) - 1
        prefill = text_of(messages[last].get("content"), f"messages[{last}].content")
        _check_continuable(messages[last], f"messages[{last}]")
        header = answer_header(template, turns, options)
    else:
        opens = add_generation_prompt is not False
        prefill, header = "", template.render(turns, add_generation_prompt=opens, **options)
    token_ids = tokenizer.encode_prompt(header, prefill)
    return Prompt(header + prefill, token_ids, len(header), prefill)


def continues(
    messages: list[Message], continue_final_message: bool | None, add_generation_prompt: bool | None
) -> bool:
    """Whether the last message is to be continued. Raises RequestError for a contradiction."""
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
            "continue_final_message",
        )
    from_assistant = messages[-1].get("role") == "assistant"
    if continue_final_message and not from_assistant:
        raise RequestError(
            "continue_final_message needs a last message from the assistant, "
            f"not from {messages[-1].get('role')!r}",
            "continue_final_message",
        )
    if continue_final_message is None:
        return from_assistant and not add_generation_prompt
    return continue_final_message


def _check_continuable(message: Message, field: str) -> None:
    for name in _UNCONTINUABLE:
        if message.get(name):
            raise RequestError(f"{field}.{name}: this cannot be continued yet", f"{field}.{name}")


def _checked(template_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    kwargs = template_kwargs or {}
    taken = RESERVED & kwargs.keys()
    if taken:
        raise RequestError(
            f"chat_template_kwargs cannot set {', '.join(sorted(taken))}", "chat_template_kwargs"
        )
    return kwargs
