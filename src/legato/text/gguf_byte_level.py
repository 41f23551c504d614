"""Byte-level BPE from a GGUF file (``tokenizer.ggml.model`` = gpt2): its tokens, its merges, a recipe by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from legato.text.gguf_keys import TURN_ENDS, Keys, added_ids, end_turns
from legato.text.library_encoder import LibraryEncoder
from legato.text.pretokenizers import RECIPES, Recipe
from legato.text.spelling import byte_level, literal


def byte_level_encoder(
    keys: Keys, tokens: Sequence[str], types: bytearray
) -> tuple[LibraryEncoder, bool]:
    """Also whether a BOS is added when the file does not say. Raises ``ModelError``."""
    names = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]
    vocabulary = {name: id for id, name in enumerate(names)}
    if len(vocabulary) != len(names):
        repeated, _ = Counter(names).most_common(1)[0]
        keys.fail("tokens", f"{repeated!r} occurs twice")
    end_turns(types, (vocabulary[name] for name in TURN_ENDS & vocabulary.keys()))
    recipe = _recipe(keys)
    backend = _backend(keys, vocabulary, recipe)
    special, user_defined = added_ids(types)
    _add_tokens(backend, [names[id] for id in special], special=True)
    _add_tokens(backend, [names[id] for id in user_defined], special=False)
    added = {id: literal(names[id]) for id in (*special, *user_defined)}
    return LibraryEncoder(backend, byte_level, added, special), recipe.add_bos


def _recipe(keys: Keys) -> Recipe:
    name = "default" if keys.get("pre") is None else keys.text("pre")
    recipe = RECIPES.get(name)
    if recipe is None:
        keys.unsupported("pre", f"pre-tokenizer {name!r} is not supported")
    return recipe


def _backend(keys: Keys, vocabulary: dict[str, int], recipe: Recipe) -> tokenizers.Tokenizer:
    merges = []
    for line in keys.array("merges", str):
        left, _, right = line[1:].partition(" ")  # the first character may be a space itself
        merges.append((line[:1] + left, right))
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


def _add_tokens(backend: tokenizers.Tokenizer, pieces: list[str], *, special: bool) -> None:
    added = [tokenizers.AddedToken(piece, special=special, normalized=False) for piece in pieces]
    (backend.add_special_tokens if special else backend.add_tokens)(added)
