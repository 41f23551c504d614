"""A model's configuration, read strictly: what is missing or has the wrong type fails by name.

The keys are those of Hugging Face's ``config.json``. A GGUF file's metadata is translated to them
(``gguf_config.py``); ``labels`` then holds the name that the file uses, for messages.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from legato.errors import ModelError, UnsupportedModelError

REQUIRED: Final = object()
"""Default of the accessors: the key must be there."""


@dataclass(frozen=True)
class ModelConfig:
    """Typed access to a mapping that came out of ``source``. A JSON null counts as missing."""

    source: Path
    values: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    prefix: str = ""  # where a section sits in the file, e.g. "rope_scaling."

    def label(self, key: str) -> str:
        return self.labels.get(key, self.prefix + key)

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ModelError(f"{self.source}: {self.label(key)}: {problem}")

    def refuse(self, key: str, problem: str) -> NoReturn:
        raise UnsupportedModelError(f"{self.source}: {self.label(key)}: {problem}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str, kinds: tuple[type, ...], default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is REQUIRED:
                self.fail(key, "the key is missing")
            return default
        # bool is an int to Python, but never to a config
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.fail(key, f"expected {' or '.join(k.__name__ for k in kinds)}, got {value!r:.80}")
        return value

    def integer(self, key: str, default: Any = REQUIRED, *, minimum: int = 1) -> int:
        value = self.get(key, (int,), default)
        if value < minimum or value > 2**31 - 1:
            self.fail(key, f"{value} is out of range (at least {minimum})")
        return int(value)

    def number(self, key: str, default: Any = REQUIRED, *, above: float = 0.0) -> float:
        """A finite number greater than ``above``."""
        given = self.get(key, (int, float), default)
        # A whole number of hundreds of digits is none that a float can be.
        too_long = isinstance(given, int) and abs(given) > 2**1000
        value = math.inf if too_long else float(given)
        if not (math.isfinite(value) and value > above):
            self.fail(key, f"{value} is out of range (above {above:g})")
        return value

    def boolean(self, key: str, default: Any = REQUIRED) -> bool:
        return bool(self.get(key, (bool,), default))

    def text(self, key: str, default: Any = REQUIRED) -> str:
        return str(self.get(key, (str,), default))

    def items(self, key: str, default: Any = REQUIRED) -> list[Any]:
        return list(self.get(key, (list,), default))

    def section(self, key: str) -> ModelConfig:
        """The mapping under ``key``, with messages that name the whole path."""
        values = self.get(key, (dict,), REQUIRED)
        inner = f"{key}."
        labels = {
            name.removeprefix(inner): label
            for name, label in self.labels.items()
            if name.startswith(inner)
        }
        return ModelConfig(self.source, values, labels, f"{self.label(key)}.")

    def expect(self, key: str, *supported: Any) -> None:
        """Refuse every value but the supported ones; a missing key is fine."""
        value = self.values.get(key)
        if value is not None and value not in supported:
            choices = ", ".join(map(repr, supported)) or "none"
            self.refuse(key, f"{value!r:.80} is not supported (supported: {choices})")

    def expect_keys(self, *known: str) -> None:
        """Refuse keys that might change the numbers and that nobody reads."""
        for key, value in self.values.items():
            if key not in known and value is not None:
                self.refuse(key, "this key is not supported")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; everything else is a ``ModelError``."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
