"""Reads a Hugging Face folder's tokenizer: ``tokenizer.json`` and the small files around it.

tokenizer.json           the vocabulary and every rule
tokenizer_config.json    names of BOS and EOS; may override whether they are added, and have more tokens
special_tokens_map.json  the same names, in older folders
generation_config.json   the ids that end an answer (one or a list); config.json in older folders
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from msgspec.structs import asdict

from legato.errors import ModelError, UnsupportedModelError
from legato.text.encoder import Encoder
from legato.text.hf_byte_level import FileVocabulary, read_byte_level
from legato.text.hf_files import (
    AddedToken,
    declared_tokens,
    read_json,
    special_token_names,
    token_name,
)
from legato.text.library_encoder import LibraryEncoder
from legato.text.spelling import SPACE, Spelling, byte_level, literal, sentencepiece
from legato.text.vocabulary import Tokenizer

log = logging.getLogger(__name__)
_BYTE_LEVEL_PARTS = {"ByteLevel"}
_SENTENCEPIECE_PARTS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


def load_hf_tokenizer(folder: Path) -> Tokenizer:
    """Read a folder's tokenizer. Raises ``ModelError`` naming file and key."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UnsupportedModelError(
            f"{folder}: there is no tokenizer.json (tokenizers in other files are not supported)"
        )
    config = read_json(folder / "tokenizer_config.json")
    declared = declared_tokens(folder, config)
    vocabulary = read_byte_level(path, declared) or _library(path, declared)
    bos = _named_token(folder, config, vocabulary.encoder, "bos_token")
    eos = _named_token(folder, config, vocabulary.encoder, "eos_token")
    prefix, suffix = _frame(path, vocabulary.rules)
    if isinstance(config.get("add_bos_token"), bool) and bos is not None:
        prefix = [bos] if config["add_bos_token"] else []
    if isinstance(config.get("add_eos_token"), bool) and eos is not None:
        suffix = [eos] if config["add_eos_token"] else []
    return Tokenizer(
        vocabulary.encoder,
        added_ids=vocabulary.added,
        special_ids=[id for id, special in vocabulary.added.items() if special],
        bos_token_id=bos,
        eos_token_ids=_end_ids(folder, eos),
        prefix_ids=prefix,
        suffix_ids=suffix,
        space_prefix=vocabulary.space_prefix,
        vocab_size=vocabulary.size,
    )


def _library(path: Path, declared: Sequence[AddedToken]) -> FileVocabulary:
    backend = _backend(path)
    _add(backend, declared, path)
    spelling, space_prefix = _spelling(path, backend)
    added = backend.get_added_tokens_decoder()
    spelled = {
        id: literal(token.content) if spelling is byte_level else spelling(token.content)
        for id, token in added.items()
    }
    special = {id: token.special for id, token in added.items()}
    return FileVocabulary(
        LibraryEncoder(backend, spelling, spelled, [id for id in special if special[id]]),
        backend,
        special,
        size=max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        space_prefix=space_prefix,
    )


def _backend(path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ModelError(f"{path}: cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _add(backend: tokenizers.Tokenizer, declared: Sequence[AddedToken], path: Path) -> None:
    """Those that the file does not have. The library numbers them itself: one that would get another id than
    the model knows it by is text instead, as it would be without that other file."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in declared:
        if token.content in known:
            continue
        try:
            id = backend.token_to_id(token.content)
        except UnicodeEncodeError:
            id = -1
        if token.id == (backend.get_vocab_size() if id is None else id):
            flags = {name: value for name, value in asdict(token).items() if name != "id"}
            backend.add_tokens([tokenizers.AddedToken(**flags)])
        else:
            log.warning(
                "%s: key 'added_tokens_decoder': %d: %r cannot have this id, beside tokenizer.json; it is text",
                path.with_name("tokenizer_config.json"),
                token.id,
                token.content,
            )


def _spelling(path: Path, backend: tokenizers.Tokenizer) -> tuple[Spelling, bool]:
    """How to read the vocabulary's pieces, and whether a space is put before the first word."""
    state: dict[str, Any] = {"type": None}
    if backend.decoder is not None:
        state = json.loads(backend.decoder.__getstate__())
    parts: list[dict[str, Any]] = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = {part["type"] for part in parts}
    if kinds == _BYTE_LEVEL_PARTS:
        return byte_level, False
    replaces = [part for part in parts if part["type"] == "Replace"]
    plain = all(part["pattern"] == {"String": SPACE} for part in replaces)
    if kinds <= _SENTENCEPIECE_PARTS and plain and ("Metaspace" in kinds or replaces):
        strips = any(part["type"] == "Strip" and part["start"] > 0 for part in parts)
        prepends = any(part.get("prepend_scheme", "never") != "never" for part in parts)
        return sentencepiece, strips or prepends
    raise UnsupportedModelError(f"{path}: key 'decoder': {json.dumps(state)} is not supported")


def _named_token(folder: Path, config: dict[str, Any], encoder: Encoder, key: str) -> int | None:
    if key in config:
        name = token_name(config[key])
    else:
        name = special_token_names(folder).get(key)
    try:
        return None if name is None else encoder.token_id(name)
    except UnicodeEncodeError:
        raise ModelError(f"{folder}: key {key!r}: {name!r} is not Unicode text") from None


def _frame(path: Path, rules: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """The ids which the file's post-processor puts around every text: (before, after)."""
    try:
        bare: Sequence[int] = rules.encode("a", add_special_tokens=False).ids
        framed: Sequence[int] = rules.encode("a", add_special_tokens=True).ids
    except Exception as error:  # the library raises Exception itself
        raise ModelError(f"{path}: text cannot be encoded: {error}") from error
    extra = len(framed) - len(bare)
    for before in range(extra + 1):
        if framed[before : before + len(bare)] == bare:
            return list(framed[:before]), list(framed[before + len(bare) :])
    return [], []


def _end_ids(folder: Path, eos: int | None) -> list[int]:
    """Every id that ends an answer: generation_config's (or config's), then the tokenizer's own."""
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id")
        if value is not None:
            break
    ends = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id, int) for id in ends):
        raise ModelError(f"{folder / name}: key 'eos_token_id': {value!r} is not a list of ids")
    return list(dict.fromkeys([*ends, *([] if eos is None else [eos])]))
