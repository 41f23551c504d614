"""Rebuilds a tokenizer from a GGUF file's metadata.

Two families: byte-level BPE with its merges (``tokenizer.ggml.model`` = gpt2), and SentencePiece,
whose file holds a score for each token instead of merges (= llama). Each token has a type: control
tokens are matched in text only when asked for, user-defined ones always.
"""

from __future__ import annotations

from collections import Counter
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NoReturn

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from legato.errors import ModelError, UnsupportedModelError
from legato.gguf_file import read_metadata
from legato.text.merges import kept_merges
from legato.text.pretokenizers import RECIPES, Recipe
from legato.text.spelling import SPACE, byte_level, literal, sentencepiece
from legato.text.vocabulary import Tokenizer


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
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


def load_gguf_tokenizer(path: Path, load_cache: str = "off") -> Tokenizer:
    """Read a GGUF file's tokenizer. Raises ``ModelError`` naming file and key."""
    return build_gguf_tokenizer(path, read_metadata(path), load_cache)


def build_gguf_tokenizer(
    path: Path, metadata: dict[str, Any], load_cache: str = "off"
) -> Tokenizer:
    """As ``load_gguf_tokenizer``, from metadata that is already read; ``path`` is for messages, and
    where ``load_cache`` (``EngineConfig.load_cache``) keeps what takes long to make."""
    keys = _Keys(path, metadata)
    kind = keys.text("model")
    tokens = _tokens(keys)
    types = _token_types(keys, tokens)
    if kind == "llama":
        backend = _sentencepiece_backend(keys, tokens, types, load_cache)
        spelling, add_bos, prefix_space = sentencepiece, True, keys.flag("add_space_prefix", True)
    elif kind == "gpt2":
        recipe = _recipe(keys)
        backend = _byte_level_backend(keys, tokens, recipe)
        spelling, add_bos, prefix_space = byte_level, recipe.add_bos, False
    else:
        keys.unsupported("model", f"tokenizer {kind!r} is not supported (supported: gpt2, llama)")
    special, user_defined = _added_ids(types)
    _add_tokens(backend, [tokens[id] for id in special], special=True)
    _add_tokens(backend, [tokens[id] for id in user_defined], special=False)
    bos = keys.token("bos_token_id", len(tokens))
    eos = keys.token("eos_token_id", len(tokens))
    return Tokenizer(
        backend,
        spelling=spelling,
        added={id: literal(tokens[id]) for id in (*special, *user_defined)},
        special_ids=special,
        bos_token_id=bos,
        eos_token_ids=_end_ids(keys, tokens, special),
        prefix_ids=[bos] if bos is not None and keys.flag("add_bos_token", add_bos) else [],
        suffix_ids=[eos] if eos is not None and keys.flag("add_eos_token", False) else [],
        space_prefix=prefix_space,
        vocab_size=len(tokens),
    )


class _Keys:
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

    def array(self, key: str, kind: type, length: int | None = None) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list):
            self.fail(key, "missing" if value is None else "must be an array")
        if length is not None and len(value) != length:
            self.fail(key, f"has {len(value)} entries for {length} tokens")
        if value and not isinstance(value[0], kind):  # a GGUF array holds values of one type
            self.fail(key, f"must be an array of {kind.__name__}, not {type(value[0]).__name__}")
        return value


def _tokens(keys: _Keys) -> list[str]:
    tokens = keys.array("tokens", str)
    if not tokens:
        keys.fail("tokens", "is empty")
    if "" in tokens:
        tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]
    if len(set(tokens)) != len(tokens):
        repeated, _ = Counter(tokens).most_common(1)[0]
        keys.fail("tokens", f"{repeated!r} occurs twice")
    return tokens


def _token_types(keys: _Keys, tokens: list[str]) -> list[int]:
    """The type of each token; names that end a turn are control tokens whatever the file says."""
    if keys.get("token_type") is None:
        types = [int(TokenType.NORMAL)] * len(tokens)
    else:
        types = list(keys.array("token_type", int, len(tokens)))
    for id, token in enumerate(tokens):
        if token in TURN_ENDS:
            types[id] = TokenType.CONTROL
    return types


def _added_ids(types: list[int]) -> tuple[list[int], list[int]]:
    """Ids of (control tokens, user-defined tokens)."""
    control = (TokenType.CONTROL, TokenType.UNKNOWN)
    special = [id for id, type in enumerate(types) if type in control]
    return special, [id for id, type in enumerate(types) if type == TokenType.USER_DEFINED]


def _add_tokens(backend: tokenizers.Tokenizer, pieces: list[str], *, special: bool) -> None:
    added = [tokenizers.AddedToken(piece, special=special, normalized=False) for piece in pieces]
    (backend.add_special_tokens if special else backend.add_tokens)(added)


def _end_ids(keys: _Keys, tokens: list[str], special: list[int]) -> list[int]:
    """Every token that ends an answer, the file's own first."""
    named = [keys.token(key, len(tokens)) for key in _END_KEYS]
    ends = [id for id in named if id is not None]
    names = {tokens[id] for id in special} & TURN_ENDS
    if {"<|return|>", "<|call|>"} <= names:  # there <|end|> ends a message, not the answer
        names.discard("<|end|>")
    ends += [id for id in special if tokens[id] in names]
    return list(dict.fromkeys(ends))


def _recipe(keys: _Keys) -> Recipe:
    name = "default" if keys.get("pre") is None else keys.text("pre")
    recipe = RECIPES.get(name)
    if recipe is None:
        keys.unsupported("pre", f"pre-tokenizer {name!r} is not supported")
    return recipe


def _byte_level_backend(keys: _Keys, tokens: list[str], recipe: Recipe) -> tokenizers.Tokenizer:
    lines = keys.array("merges", str)
    merges = []
    for line in lines:
        left, _, right = line[1:].partition(" ")  # the first character may be a space itself
        merges.append((line[:1] + left, right))
    vocabulary = {token: id for id, token in enumerate(tokens)}
    try:
        model = models.BPE(vocabulary, merges, ignore_merges=recipe.ignore_merges)
    except Exception as error:  # the library raises Exception: a part is no token
        keys.fail("merges", str(error))
    backend = tokenizers.Tokenizer(model)
    if recipe.nfc:
        backend.normalizer = normalizers.NFC()
    cuts = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in recipe.patterns
    ]
    bytes_as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_as_letters])
    return backend


def _sentencepiece_backend(
    keys: _Keys, tokens: list[str], types: list[int], load_cache: str
) -> tokenizers.Tokenizer:
    scores = keys.array("scores", float, len(tokens))
    unknown = keys.token("unknown_token_id", len(tokens))
    vocabulary = {token: id for id, token in enumerate(tokens)}
    mergeable = [id for id, type in enumerate(types) if type == TokenType.NORMAL]
    model = models.BPE(
        vocabulary,
        kept_merges(keys.path, load_cache, tokens, mergeable, scores, vocabulary),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=tokens[unknown] if unknown is not None else None,
    )
    backend = tokenizers.Tokenizer(model)
    space = normalizers.Replace(" ", SPACE)
    if keys.flag("add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), space])
    else:
        backend.normalizer = space
    return backend
