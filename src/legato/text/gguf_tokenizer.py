"""Rebuilds a tokenizer from a GGUF file's metadata.

Two families: byte-level BPE with its merges (``tokenizer.ggml.model`` = gpt2), and SentencePiece,
whose file holds a score for each token instead of merges (= llama). Each token has a type: control
tokens are matched in text only when asked for, user-defined ones always.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from legato._text import Pieces
from legato.gguf_file import read_metadata
from legato.text.encoder import Encoder
from legato.text.gguf_keys import TURN_ENDS, Keys, added_ids, end_turns, token_types
from legato.text.pieces import pieces_of
from legato.text.pretokenizers import RECIPES, Recipe
from legato.text.sentencepiece import SentencePieceEncoder
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
    if kind not in ("gpt2", "llama"):
        keys.unsupported("model", f"tokenizer {kind!r} is not supported (supported: gpt2, llama)")
    pieces = _pieces(keys, tokens)
    end_turns(types, (id for name in TURN_ENDS if (id := pieces.find(name)) >= 0))
    special, user_defined = added_ids(types)
    space_prefix = kind == "llama" and keys.flag("add_space_prefix", True)
    if kind == "llama":
        encoder: Encoder = _sentencepiece(keys, pieces, types, space_prefix)
        add_bos = True
    else:
        recipe = _recipe(keys)
        encoder = _byte_level(keys, pieces, types, recipe, special)
        add_bos = recipe.add_bos
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


def _pieces(keys: Keys, tokens: Sequence[str]) -> Pieces:
    try:
        return pieces_of(tokens)
    except ValueError as error:
        keys.fail("tokens", str(error))


def _sentencepiece(keys: Keys, pieces: Pieces, types: bytearray, space_prefix: bool) -> Encoder:
    scores = keys.array("scores", float, len(pieces))
    unknown = keys.token("unknown_token_id", len(pieces))
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


def _recipe(keys: Keys) -> Recipe:
    name = "default" if keys.get("pre") is None else keys.text("pre")
    recipe = RECIPES.get(name)
    if recipe is None:
        keys.unsupported("pre", f"pre-tokenizer {name!r} is not supported")
    return recipe


def _byte_level(
    keys: Keys, pieces: Pieces, types: bytearray, recipe: Recipe, special_ids: list[int]
) -> Encoder:
    # Imported where it is needed: the library that cuts words takes memory and time.
    from legato.text.byte_level import ByteLevelEncoder
    from legato.text.word_cutter import WordCutter

    try:
        return ByteLevelEncoder(
            pieces,
            bytes(types),
            keys.array("merges", str),
            WordCutter.of(recipe),
            whole_words=recipe.ignore_merges,
            special_ids=special_ids,
        )
    except ValueError as error:
        keys.fail("merges", str(error))
