"""What POST /v1/responses takes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from legato.errors import RequestError
from legato.server.structured import TextOptions, Wanted
from legato.server.turns import Extras

NO_EFFECT = frozenset(
    {"user", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "max_tool_calls"}
)


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "truncation": ("disabled",),
    "background_options": (),
    "conversation": (),
    "prompt": (),
    "service_tier": ("auto", "default"),
    "prompt_cache_retention": ("in_memory",),
    "prompt_cache_options": (),
    "context_management": ([],),
    "moderation": (),
    "access_programs": (),
    "image": (),
    "stream_options": ({}, {"include_obfuscation": False}),
}


LOGPROBS = "message.output_text.logprobs"
MOST_METADATA = 16
LONGEST_KEY, LONGEST_VALUE = 64, 512
"""OpenAI's: it is kept with the response, and sent with every one of its states."""


class ReasoningOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``effort`` is told to the template. Thoughts are given out whole: there is no summary."""

    effort: str | None = None
    summary: Literal["auto"] | None = None
    generate_summary: None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class ResponsesRequest(Extras, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, and those of /v1/chat/completions that say how to sample."""

    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    store: bool = True
    background: bool = False
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    stop: str | list[str] | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None

    def check_metadata(self) -> None:
        """Raises RequestError."""
        given = self.metadata or {}
        if (
            len(given) > MOST_METADATA
            or max(map(len, given), default=0) > LONGEST_KEY
            or max(map(len, given.values()), default=0) > LONGEST_VALUE
        ):
            raise RequestError(
                f"metadata may have {MOST_METADATA} names of {LONGEST_KEY} characters, with "
                f"{LONGEST_VALUE} each",
                "metadata",
            )

    def wanted_grammar(self) -> Wanted | None:
        return self.text.wanted() if self.text else None

    @property
    def wanted_thoughts(self) -> tuple[bool | str | None, str]:
        return self.reasoning.effort if self.reasoning else None, "reasoning.effort"

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())
