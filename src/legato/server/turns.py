"""Conversations of the protocols beside OpenAI's chat, brought into the shape that templates read.

Every key of a message is checked: what is neither served nor a mere hint is a 400 that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from legato.errors import RequestError
from legato.request import SamplingParams
from legato.sampling_params import from_fields
from legato.server.protocol import SamplingFields
from legato.text.continuation import Prompt, build_prompt
from legato.text.messages import text_of
from legato.text.precedence import ContinueFinalMessage
from legato.text.thinking import template_kwargs

if TYPE_CHECKING:
    from legato.server.service import Service

Turn = dict[str, str]  # "role" and "content", and "reasoning_content" if there are thoughts


class Extras(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """Fields of /v1/chat/completions that mean the same in other protocols."""

    parse_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] | None = None

    def params(self, preferences: Mapping[str, Any], **renamed: Any) -> SamplingParams:
        """The sampling parameters; ``renamed`` are those that the protocol calls differently."""
        return from_fields({**msgspec.structs.asdict(self), **renamed}, preferences)


@dataclass(frozen=True)
class TurnFormat:
    """What a protocol's messages look like."""

    roles: Mapping[str, str]  # the protocol's name of a role -> the template's
    hints: frozenset[str] = frozenset()  # keys that change nothing here
    unsupported: frozenset[str] = frozenset()  # keys that are refused unless they are empty
    thoughts: str = "reasoning_content"  # the key of an answer's thoughts

    def read(self, message: Any, field: str) -> Turn:
        """Raises RequestError naming the key at fault."""
        if not isinstance(message, dict):
            raise RequestError(f"{field} must be an object", field)
        for key, value in message.items():
            served = {"role", "content", self.thoughts}
            if key in served or key in self.hints or value in (None, [], ""):
                continue
            known = "is not supported" if key in self.unsupported else "is unknown"
            raise RequestError(f"{field}.{key} {known}", f"{field}.{key}")
        role = message.get("role")
        if not isinstance(role, str) or role not in self.roles:
            raise RequestError(
                f"{field}.role must be one of {', '.join(self.roles)}, got {role!r}",
                f"{field}.role",
            )
        turn = {
            "role": self.roles[role],
            "content": text_of(message.get("content"), f"{field}.content"),
        }
        thoughts = message.get(self.thoughts)
        if not thoughts:
            return turn
        if role != "assistant" or not isinstance(thoughts, str):
            name = f"{field}.{self.thoughts}"
            raise RequestError(f"{name} must be a text, of the assistant's", name)
        return {**turn, "reasoning_content": thoughts}


class ChatFields(Protocol):
    """What a request says of its prompt."""

    chat_template_kwargs: dict[str, Any] | None
    parse_special_tokens: bool
    cache_salt: str | None

    @property
    def wanted_thoughts(self) -> tuple[bool | str | None, str]: ...


def render(
    turns: list[Turn],
    service: Service,
    fields: ChatFields,
    *,
    continued: ContinueFinalMessage | None = None,
) -> Prompt:
    """The prompt; ``continued``: whether the last turn is the beginning of the answer.

    None: it is if it is the assistant's and ``--assistant-prefill`` says so.
    """
    if service.template is None:
        raise RequestError(
            "this model has no chat template: use /v1/completions, or start the server with "
            "--chat-template",
            "messages",
        )
    return build_prompt(
        service.template,
        service.text_within(fields.cache_salt),
        [*turns],
        continue_final_message=continued,
        add_generation_prompt=None if continued is None else not continued,
        template_kwargs=template_kwargs(
            service.template, fields.chat_template_kwargs, *fields.wanted_thoughts
        ),
        parse_special_tokens=fields.parse_special_tokens,
        assistant_prefill=service.config.assistant_prefill,
        reasoning_parser=service.config.reasoning_parser,
    )
