"""A byte-level BPE vocabulary out of a tokenizer.json, if its rules are those that ``ByteLevelEncoder`` knows.

Those of Llama 3, Qwen, SmolLM2 and most others are. Of such a file the ``tokenizers`` library gets all but
the vocabulary, which it would hold twice (docs/benchmarks.md, "Start").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import tokenizers

from legato.text.byte_level import ByteLevelEncoder
from legato.text.encoder import Encoder
from legato.text.gguf_keys import TokenType
from legato.text.hf_files import AddedToken, Id
from legato.text.pieces import pieces_of
from legato.text.spelling import BYTE_ALPHABET
from legato.text.word_cutter import WordCutter

_KEEPS_ALL: Final = {"Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}
"""How a Split may treat what it finds: nothing of the text goes away."""

_NFC: Final = {"type": "NFC"}
_NO_STEPS: Final[dict[str, Any]] = {"type": "Sequence", "normalizers": []}


class _Model(msgspec.Struct, tag="BPE"):
    vocab: dict[str, Id]
    merges: list[str | tuple[str, str]]
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[AddedToken]
    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


@dataclass(frozen=True)
class FileVocabulary:
    """What a tokenizer.json says."""

    encoder: Encoder
    rules: tokenizers.Tokenizer
    """What the library knows of it; not always the tokens."""
    added: dict[int, bool]
    """Ids of the tokens that are matched in text before anything else: whether each is a control token."""
    size: int
    """One more than the largest id."""
    space_prefix: bool = False
    """Whether a space is put before the first word."""


def read_byte_level(path: Path, declared: Sequence[AddedToken] = ()) -> FileVocabulary | None:
    """``declared``: what another file adds. None if the file is another kind of tokenizer, or is broken:
    the library says how."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        known = {token.content for token in file.added_tokens}
        file.added_tokens += [token for token in declared if token.content not in known]
        tokens = _tokens(file)
        if tokens is None or not _is_plain(file):
            return None
        rules = tokenizers.Tokenizer.from_str(json.dumps(_rules(file, len(tokens))))
        added = {token.id: token.special for token in file.added_tokens}
        types = bytearray([TokenType.NORMAL]) * len(tokens)
        for id, special in added.items():
            types[id] = TokenType.CONTROL if special else TokenType.USER_DEFINED
        encoder = ByteLevelEncoder(
            pieces_of(tokens),
            bytes(types),
            _merges(file.model),
            WordCutter(rules.pre_tokenizer, nfc=file.normalizer == _NFC),
            whole_words=file.model.ignore_merges,
            special_ids=[id for id, special in added.items() if special],
        )
    except Exception:  # the library raises Exception itself
        return None
    return FileVocabulary(encoder, rules, added, len(tokens))


def _tokens(file: _File) -> list[str] | None:
    """By their ids; None if those are not 0, 1, 2 and so on, each of one token."""
    vocab, added = file.model.vocab, file.added_tokens
    if any(vocab.get(token.content, token.id) != token.id for token in added):
        return None
    ids = vocab | {token.content: token.id for token in added}
    tokens = [""] * len(ids)
    for token, id in ids.items():
        tokens[id] = token
    return tokens if all(tokens) else None


def _merges(model: _Model) -> list[str]:
    """Raises ValueError if a part has a space in it."""
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.merges]
    if "".join(lines).count(" ") != len(lines):
        raise ValueError("a merge is not two parts with a space between them")
    return lines


def _is_plain(file: _File) -> bool:
    model, added = file.model, file.added_tokens
    whole = BYTE_ALPHABET.keys() <= model.vocab.keys()  # no byte is ever unknown
    return (
        not model.dropout
        and not model.continuing_subword_prefix
        and not model.end_of_word_suffix
        and (whole or (model.unk_token is None and not model.byte_fallback))
        and file.normalizer in (None, _NO_STEPS, _NFC)
        and not any(token.single_word or token.lstrip or token.rstrip for token in added)
        and len({token.normalized for token in added}) <= 1
        and not (file.normalizer == _NFC and any(token.normalized for token in added))
        and _cuts(file.pre_tokenizer) is not None
        and file.decoder is not None
        and file.decoder["type"] == "ByteLevel"
    )


def _cuts(pre_tokenizer: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The steps that cut a text into words; None if they do anything else, or if none writes bytes as letters."""
    kind = pre_tokenizer["type"]
    *cuts, last = pre_tokenizer["pretokenizers"] if kind == "Sequence" else [pre_tokenizer]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    for cut in cuts:
        if cut["type"] != "Digits" and (
            cut["type"] != "Split" or cut["behavior"] not in _KEEPS_ALL
        ):
            return None
    return [*cuts, last] if last.get("use_regex", True) else cuts


def _rules(file: _File, unknown: int) -> dict[str, Any]:
    """``unknown``: the id of every word, which no token has."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _cuts(file.pre_tokenizer)},
        "post_processor": file.post_processor,
        "decoder": file.decoder,
        "model": {"type": "WordLevel", "vocab": {"": unknown}, "unk_token": ""},
    }
