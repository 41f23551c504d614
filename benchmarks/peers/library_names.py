"""Control and user-defined tokens of a GGUF file, as the ``tokenizers`` library adds them to a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from legato.text.gguf_keys import TURN_ENDS, TokenType


def types_of(tokens: Sequence[str], given: Sequence[int] | None) -> list[int]:
    """Those that the file gives, but that tokens which end a turn are control tokens."""
    if given is None:
        given = [TokenType.NORMAL] * len(tokens)
    return [
        TokenType.CONTROL if token in TURN_ENDS else type
        for token, type in zip(tokens, given, strict=True)
    ]


def add_names(backend: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    for special, kinds in (
        (True, (TokenType.CONTROL, TokenType.UNKNOWN)),
        (False, (TokenType.USER_DEFINED,)),
    ):
        names = [token for token, type in zip(tokens, types, strict=True) if type in kinds]
        added = [tokenizers.AddedToken(name, special=special, normalized=False) for name in names]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
