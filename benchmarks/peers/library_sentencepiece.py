"""A SentencePiece vocabulary of a GGUF file as the ``tokenizers`` library holds it: with the merges that its scores mean.

transformers reads tokenizers in this form; the tests hold Legato's own encoder to it.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import models, normalizers

from legato.text.gguf_keys import TokenType
from legato.text.spelling import SPACE
from peers.library_names import add_names, types_of


def merges_from_scores(
    tokens: list[str], mergeable: list[int], scores: list[float], vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
    """Every way to make a token (one of the ids ``mergeable``) of two others, best token first.

    SentencePiece joins whichever neighbours make the token of the highest score, which is BPE with
    these merges. One comprehension, because Gemma has 1.7 million candidates.
    """
    order = sorted(mergeable, key=scores.__getitem__, reverse=True)
    return [
        (left, right)
        for token in map(tokens.__getitem__, order)
        for cut in range(1, len(token))
        if (right := token[cut:]) in vocabulary and (left := token[:cut]) in vocabulary
    ]


def library_sentencepiece(metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    """``metadata`` of a sound file whose ``tokenizer.ggml.model`` is ``llama``."""
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    tokens = list(keys["tokens"])
    types = types_of(tokens, keys.get("token_type"))
    vocabulary = {token: id for id, token in enumerate(tokens)}
    mergeable = [id for id, type in enumerate(types) if type == TokenType.NORMAL]
    unknown = keys.get("unknown_token_id")
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            merges_from_scores(tokens, mergeable, keys["scores"], vocabulary),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if unknown is None else tokens[unknown],
        )
    )
    space = normalizers.Replace(" ", SPACE)
    if keys.get("add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), space])
    else:
        backend.normalizer = space
    add_names(backend, tokens, types)
    return backend
