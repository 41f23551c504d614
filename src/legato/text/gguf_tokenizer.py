"""Rebuilds a tokenizer from a GGUF file's metadata.

Two families: byte-level BPE with its merges (``tokenizer.ggml.model`` = gpt2), and SentencePiece,
whose file holds a score for each token instead of merges (= llama). Each token has a type: control
tokens are matched in text only when asked for, user-defined ones always.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from legato.gguf_file import read_metadata
from legato.text.encoder import Encoder
from legato.text.gguf_keys import TURN_ENDS, Keys, added_ids, end_turns, token_types
from legato.text.sentencepiece import SentencePieceEncoder, pieces_of
from legato.text.vocabulary import Tokenizer

_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


def load_gguf_tokenizer(path: Path) -> Tokenizer:
    """Read a GGUF file's tokenizer. Raises ``ModelError`` naming file and key."""
    return build_gguf_tokenizer(path, read_metadata(path))


def build_gguf_tokenizer(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    """As ``load_gguf_tokenizer``, from metadata that is already read; ``path`` is for messages."""
    keys = Keys(path, metadata)
    kind = keys.text("model")
    tokens = keys.array("tokens", str)
    if not tokens:
        keys.fail("tokens", "is empty")
    types = token_types(keys, len(tokens))
    space_prefix = kind == "llama" and keys.flag("add_space_prefix", True)
    if kind == "llama":
        encoder: Encoder = _sentencepiece(keys, tokens, types, space_prefix)
        add_bos = True
    elif kind == "gpt2":
        # Imported where it is needed: the library takes memory and time.
        from legato.text.gguf_byte_level import byte_level_encoder

        encoder, add_bos = byte_level_encoder(keys, tokens, types)
    else:
        keys.unsupported("model", f"tokenizer {kind!r} is not supported (supported: gpt2, llama)")
    special, user_defined = added_ids(types)
    bos = keys.token("bos_token_id", len(tokens))
    eos = keys.token("eos_token_id", len(tokens))
    return Tokenizer(
        encoder,
        added_ids=[*special, *user_defined],
        special_ids=special,
        bos_token_id=bos,
        eos_token_ids=_end_ids(keys, tokens, special),
        prefix_ids=[bos] if bos is not None and keys.flag("add_bos_token", add_bos) else [],
        suffix_ids=[eos] if eos is not None and keys.flag("add_eos_token", False) else [],
        space_prefix=space_prefix,
        vocab_size=len(tokens),
    )


def _end_ids(keys: Keys, tokens: Sequence[str], special: list[int]) -> list[int]:
    """Every token that ends an answer, the file's own first."""
    named = [keys.token(key, len(tokens)) for key in _END_KEYS]
    ends = [id for id in named if id is not None]
    names = {tokens[id] for id in special} & TURN_ENDS
    if {"<|return|>", "<|call|>"} <= names:  # there <|end|> ends a message, not the answer
        names.discard("<|end|>")
    ends += [id for id in special if tokens[id] in names]
    return list(dict.fromkeys(ends))


def _sentencepiece(
    keys: Keys, tokens: Sequence[str], types: bytearray, space_prefix: bool
) -> Encoder:
    try:
        pieces = pieces_of(tokens)
    except ValueError as error:
        keys.fail("tokens", str(error))
    end_turns(types, (id for name in TURN_ENDS if (id := pieces.find(name)) >= 0))
    scores = keys.array("scores", float, len(tokens))
    unknown = keys.token("unknown_token_id", len(tokens))
    try:
        return SentencePieceEncoder(
            pieces,
            bytes(types),
            scores,
            unknown=-1 if unknown is None else unknown,
            space_prefix=space_prefix,
        )
    except ValueError as error:
        keys.fail("scores", str(error))
