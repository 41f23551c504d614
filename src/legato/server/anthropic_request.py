"""What POST /v1/messages and /v1/messages/count_tokens take."""

from __future__ import annotations

from typing import Any

import msgspec

from legato.errors import RequestError
from legato.server.structured import OutputConfig, OutputFormat, Wanted, anthropic_format
from legato.server.thinking_field import ThinkingField
from legato.server.turns import Extras

NO_EFFECT = frozenset({"metadata", "service_tier", "cache_control"})
"""The last asks for a cache that is always on."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ({"type": "auto"}, {"type": "none"}),
    "container": (),
    "context_management": ({},),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "diagnostics": (),
    "inference_geo": (),
}


class CountTokensRequest(ThinkingField, msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What ``MessagesRequest`` has of a conversation, nothing of its answer."""

    model: str | None = None
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    parse_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = None


class MessagesRequest(ThinkingField, Extras, kw_only=True, forbid_unknown_fields=True):
    """Anthropic's fields, and those of /v1/chat/completions that say how to sample."""

    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    thinking: dict[str, Any] | None = None
    max_tokens: int
    stop_sequences: list[str] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # what older clients call it

    def wanted_grammar(self) -> Wanted | None:
        return anthropic_format(self.output_config, self.output_format)

    @property
    def budgets(self) -> dict[str, int | None]:
        name, budget = "thinking.budget_tokens", self.budget_tokens
        if budget is None and (self.thinking or {}).get("type") == "enabled":
            raise RequestError(f"{name} is required", name)
        return {name: budget, **super().budgets}
