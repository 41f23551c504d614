"""The field ``thinking``: Anthropic's, and in chats DeepSeek's, GLM's and Kimi's."""

from __future__ import annotations

from typing import Any

from legato.errors import RequestError

WISHES: dict[str, bool | str] = {"enabled": True, "disabled": False, "adaptive": "auto"}
DISPLAYS = (None, "summarized")  # thoughts are shown; no others are served


class ThinkingField:
    """For requests that have it."""

    thinking: dict[str, Any] | None

    @property
    def wanted_thoughts(self) -> tuple[bool | str | None, str]:
        """As in ``GuidanceFields``. Raises RequestError."""
        if self.thinking is None:
            return None, "thinking"
        kind = self.thinking.get("type")
        if not isinstance(kind, str) or kind not in WISHES:
            raise RequestError(
                f"thinking.type must be one of {', '.join(WISHES)}, got {kind!r}", "thinking.type"
            )
        known = {"type", "display"} | ({"budget_tokens"} if kind == "enabled" else set())
        for name in self.thinking:
            if name not in known:
                raise RequestError(f"thinking.{name} is not supported", f"thinking.{name}")
        if self.thinking.get("display") not in DISPLAYS:
            raise RequestError("thinking.display must be summarized", "thinking.display")
        return WISHES[kind], "thinking"

    @property
    def budget_tokens(self) -> int | None:
        """Raises RequestError."""
        budget = (self.thinking or {}).get("budget_tokens")
        if budget is not None and (type(budget) is not int or budget < 0):
            name = "thinking.budget_tokens"
            raise RequestError(f"{name} must be a number of tokens", name)
        return budget
