"""Conversations of the protocols beside OpenAI's chat, brought into the shape that templates read.

Every key of a message is checked: what is neither served nor a mere hint is a 400 that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from legato.errors import RequestError
from legato.request import SamplingParams
from legato.sampling_params import from_fields
from legato.server.guidance import GuidanceFields
from legato.text.continuation import Prompt, build_prompt
from legato.text.messages import text_of

if TYPE_CHECKING:
    from legato.server.service import Service

Turn = dict[str, str]  # "role" and "content"


class Extras(GuidanceFields, kw_only=True, forbid_unknown_fields=True):
    """Fields of /v1/chat/completions that mean the same in other protocols."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    min_tokens: int | None = None
    ignore_eos: bool = False
    stop_token_ids: list[int] | None = None
    echo: bool = False
    stream: bool = False
    priority: int = 0
    cache_salt: str | None = None
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

    def read(self, message: Any, field: str) -> Turn:
        """Raises RequestError naming the key at fault."""
        if not isinstance(message, dict):
            raise RequestError(f"{field} must be an object", field)
        for key, value in message.items():
            if key in ("role", "content") or key in self.hints or value in (None, [], ""):
                continue
            known = "is not supported" if key in self.unsupported else "is unknown"
            raise RequestError(f"{field}.{key} {known}", f"{field}.{key}")
        role = message.get("role")
        if not isinstance(role, str) or role not in self.roles:
            raise RequestError(
                f"{field}.role must be one of {', '.join(self.roles)}, got {role!r}",
                f"{field}.role",
            )
        return {
            "role": self.roles[role],
            "content": text_of(message.get("content"), f"{field}.content"),
        }


def render(
    turns: list[Turn],
    service: Service,
    template_kwargs: dict[str, Any] | None = None,
    *,
    continued: bool,
) -> Prompt:
    """The prompt; ``continued``: the last turn is the beginning of the answer."""
    if service.template is None:
        raise RequestError(
            "this model has no chat template: use /v1/completions, or start the server with "
            "--chat-template",
            "messages",
        )
    return build_prompt(
        service.template,
        service.text,
        [*turns],
        continue_final_message=continued,
        add_generation_prompt=not continued,
        template_kwargs=template_kwargs,
    )
