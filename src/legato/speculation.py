"""``--speculative-config``: how tokens are guessed ahead. Names are vLLM's."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from legato.errors import ConfigError

FLAG = "speculative_config"
OFF = "off"
MOST_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """Guesses are what followed the same few tokens earlier in prompt, prediction or output."""

    method: str = "ngram"
    num_speculative_tokens: int = 15  # most guesses of one sequence in one step
    prompt_lookup_min: int = 2  # tokens that must have come before in the same order
    prompt_lookup_max: int = 5  # tokens by which one place is preferred to another

    def __post_init__(self) -> None:
        if self.method != "ngram":
            raise ConfigError(f"{FLAG}.method must be 'ngram', got {self.method!r}", FLAG)
        limits = {
            "num_speculative_tokens": (0, MOST_TOKENS),
            "prompt_lookup_min": (1, 16),
            "prompt_lookup_max": (self.prompt_lookup_min, 16),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ConfigError(
                    f"{FLAG}.{name} must be an integer in {least}..{most}, got {value!r}", FLAG
                )

    @classmethod
    def parse(cls, given: str | dict[str, Any] | None) -> Speculation | None:
        """Of a dictionary with any of the fields, or JSON of it; None for None and ``off``. Raises
        ConfigError."""
        if given is None or given == OFF:
            return None
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError as error:
                raise ConfigError(f"{FLAG} must be JSON or {OFF!r}: {error}", FLAG) from None
        known = {field.name for field in fields(cls)}
        if not isinstance(given, dict) or not given.keys() <= known:
            raise ConfigError(
                f"{FLAG} must be an object with keys among {', '.join(sorted(known))}, got {given}",
                FLAG,
            )
        settings = cls(**given)
        return settings if settings.num_speculative_tokens else None
