"""A byte-level BPE vocabulary of a GGUF file as the ``tokenizers`` library holds it.

transformers reads tokenizers in this form; the tests hold Legato's own encoder to it.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from legato.text.pretokenizers import RECIPES
from peers.library_names import add_names, types_of


def library_byte_level(metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    """``metadata`` of a sound file whose ``tokenizer.ggml.model`` is ``gpt2``."""
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(keys["tokens"])]
    types = types_of(tokens, keys.get("token_type"))
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
    add_names(backend, tokens, types)
    return backend
