"""A byte-level BPE vocabulary of a GGUF file as the ``tokenizers`` library holds it.

transformers reads tokenizers in this form; the tests hold Legato's own encoder to it.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from legato.text.gguf_keys import TURN_ENDS, TokenType
from legato.text.pretokenizers import RECIPES


def library_byte_level(metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    """``metadata`` of a sound file whose ``tokenizer.ggml.model`` is ``gpt2``."""
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(keys["tokens"])]
    types = [
        TokenType.CONTROL if token in TURN_ENDS else type
        for token, type in zip(
            tokens, keys.get("token_type", [TokenType.NORMAL] * len(tokens)), strict=True
        )
    ]
    recipe = RECIPES[keys.get("pre", "default")]
    merges = []
    for line in keys["merges"]:
        left, _, right = line[1:].partition(" ")  # the first character may be a space itself
        merges.append((line[:1] + left, right))
    vocabulary = {token: id for id, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, ignore_merges=recipe.ignore_merges)
    )
    if recipe.nfc:
        backend.normalizer = normalizers.NFC()
    cuts = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in recipe.patterns
    ]
    bytes_as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_as_letters])
    for special, kinds in (
        (True, (TokenType.CONTROL, TokenType.UNKNOWN)),
        (False, (TokenType.USER_DEFINED,)),
    ):
        names = [token for token, type in zip(tokens, types, strict=True) if type in kinds]
        added = [tokenizers.AddedToken(name, special=special, normalized=False) for name in names]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    return backend
