"""The keys of a GGUF file that describe its tokenizer (``tokenizer.ggml.*``), read strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NoReturn

from legato.errors import ModelError, UnsupportedModelError
from legato.gguf_file import Strings


class TokenType(IntEnum):
    """Values of ``tokenizer.ggml.token_type``."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Tokens that end a turn under one of these names do so even where the file names only one end.
TURN_ENDS: Final = frozenset(
    (
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<turn|>",
        "<|return|>",
        "<|call|>",
        "<EOT>",
        "<|EOT|>",
        "[EOT]",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
    )
)


class Keys:
    """Typed access to ``tokenizer.ggml.*``; what is missing or malformed fails, named."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        self.path = path
        self._metadata = metadata

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ModelError(f"{self.path}: key 'tokenizer.ggml.{key}': {problem}")

    def unsupported(self, key: str, problem: str) -> NoReturn:
        raise UnsupportedModelError(f"{self.path}: key 'tokenizer.ggml.{key}': {problem}")

    def get(self, key: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}")

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            self.fail(key, "missing" if value is None else f"must be a string, not {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, not {value!r}")
        return value

    def token(self, key: str, count: int) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value < count:
            self.fail(key, f"{value!r} is not one of the {count} token ids")
        return value

    def array(self, key: str, kind: type, length: int | None = None) -> Sequence[Any]:
        value = self.get(key)
        if not isinstance(value, (list, Strings)):
            self.fail(key, "missing" if value is None else "must be an array")
        if length is not None and len(value) != length:
            self.fail(key, f"has {len(value)} entries for {length} tokens")
        if value and not isinstance(value[0], kind):  # a GGUF array holds values of one type
            self.fail(key, f"must be an array of {kind.__name__}, not {type(value[0]).__name__}")
        return value


def token_types(keys: Keys, count: int) -> bytearray:
    if keys.get("token_type") is None:
        return bytearray([TokenType.NORMAL] * count)
    try:
        return bytearray(keys.array("token_type", int, count))
    except ValueError:
        keys.fail("token_type", "has a value that is no token type (0 to 6)")


def end_turns(types: bytearray, ids: Iterable[int]) -> None:
    """Tokens whose names end a turn are control tokens whatever the file says."""
    for id in ids:
        types[id] = TokenType.CONTROL


def added_ids(types: bytearray) -> tuple[list[int], list[int]]:
    """Ids of (control tokens, user-defined tokens)."""
    control = bytes((TokenType.CONTROL, TokenType.UNKNOWN))
    return _ids_of(types, control), _ids_of(types, bytes((TokenType.USER_DEFINED,)))


def _ids_of(types: bytearray, wanted: bytes) -> list[int]:
    """A search, because a loop over Gemma's 262,144 would take a tenth of a second."""
    return [found.start() for found in re.finditer(b"[%b]" % wanted, types)]
