"""Tokenizers rebuilt from GGUF metadata, against sentencepiece and against published expressions."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import corpus
import pytest
import regex
import tokenizers
from tokenizers import pre_tokenizers
from trained import (
    byte_level_metadata,
    sentencepiece_metadata,
    train_byte_level,
    train_sentencepiece,
)

from legato.text.gguf_tokenizer import build_gguf_tokenizer
from legato.text.spelling import byte_level

# As they stand in the models' tokenizer.json files.
PUBLISHED = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
TEXTS = [text for text in corpus.ALL_TEXTS if unicodedata.is_normalized("NFC", text)]


def random_texts(count: int) -> list[str]:
    """Pieces of the corpus, shuffled: neighbours that no text above has."""
    chance = random.Random(11)
    letters = sorted(set("".join(TEXTS)) - {"▁"})
    words = [word for text in TEXTS for word in text.split(" ")]
    return [
        "".join(chance.choice((chance.choice(words), chance.choice(letters), " ", "\n", "  "))
                for _ in range(40))
        for _ in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("space_prefix", [True, False])
def test_sentencepiece_gives_the_same_ids(space_prefix: bool) -> None:
    reference = train_sentencepiece(space_prefix=space_prefix)
    metadata = sentencepiece_metadata(reference, space_prefix=space_prefix)
    tokenizer = build_gguf_tokenizer(Path("m.gguf"), metadata)
    for text in [*TEXTS, *random_texts(150)]:
        if "▁" in text or "\x00" in text or "<" in text:
            continue  # a lower block is a space to sentencepiece; "<s>" is parsed by us only
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == reference.encode(text), text
        assert tokenizer.decode(ids, at_start=True) == text
    assert tokenizer.encode("x")[0] == reference.bos_id()


def test_sentencepiece_pieces_are_bytes() -> None:
    reference = train_sentencepiece(space_prefix=False)
    tokenizer = build_gguf_tokenizer(
        Path("m.gguf"), sentencepiece_metadata(reference, space_prefix=False)
    )
    newline = reference.piece_to_id("<0x0A>")
    assert tokenizer.token_bytes(newline) == b"\n"
    assert tokenizer.token_bytes(reference.piece_to_id("▁")) == b" "
    assert tokenizer.token_bytes(reference.piece_to_id("▁▁")) == b"  "


def test_the_space_before_a_text_is_no_part_of_it_but_a_continuation_keeps_its_own() -> None:
    reference = train_sentencepiece(space_prefix=True)
    tokenizer = build_gguf_tokenizer(
        Path("m.gguf"), sentencepiece_metadata(reference, space_prefix=True)
    )
    words = tokenizer.encode("the fox", add_special_tokens=False)
    assert tokenizer.decode(words) == " the fox"
    assert tokenizer.decode(words, at_start=True) == "the fox"


@pytest.mark.parametrize("pre", sorted(PUBLISHED))
def test_words_are_cut_by_the_published_expression(pre: str, tmp_path: Path) -> None:
    """The whole tokenizer against one built as tokenizer.json says."""
    cut = pre_tokenizers.Split(tokenizers.Regex(PUBLISHED[pre]), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    reference = train_byte_level(pre_tokenizers.Sequence([cut, letters]))
    metadata = byte_level_metadata(reference, pre, tmp_path)
    tokenizer = build_gguf_tokenizer(Path("m.gguf"), metadata)
    for text in [*TEXTS, *random_texts(100)]:
        if not unicodedata.is_normalized("NFC", text):
            continue
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == reference.encode(text, add_special_tokens=False).ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("pre", sorted(PUBLISHED))
def test_another_engine_cuts_the_same_words(pre: str, tmp_path: Path) -> None:
    """No merges: the ids of a text are those of its words, as the ``regex`` package finds them."""
    pieces = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    metadata = byte_level_metadata(pieces, pre, tmp_path)
    tokenizer = build_gguf_tokenizer(Path("m.gguf"), metadata)
    pattern = regex.compile(PUBLISHED[pre])
    for text in TEXTS:
        if any(ord(letter) < 9 or 0x7F <= ord(letter) < 0xA0 for letter in text) or "<" in text:
            continue  # the engines differ on which control characters are spaces
        words = pattern.findall(text)
        assert "".join(words) == text
        apart = [id for word in words for id in tokenizer.encode(word, add_special_tokens=False)]
        assert tokenizer.encode(text, add_special_tokens=False) == apart, text


def test_smollm_cuts_digits_first(tmp_path: Path) -> None:
    cut = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    reference = train_byte_level(cut)
    tokenizer = build_gguf_tokenizer(
        Path("m.gguf"), byte_level_metadata(reference, "smollm", tmp_path)
    )
    for text in [*TEXTS, *random_texts(100)]:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text


def test_qwen2_normalises_first(tmp_path: Path) -> None:
    reference = train_byte_level(pre_tokenizers.ByteLevel(False))
    tokenizer = build_gguf_tokenizer(
        Path("m.gguf"), byte_level_metadata(reference, "qwen2", tmp_path)
    )
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")


def test_a_byte_level_token_with_foreign_letters_stands_for_itself() -> None:
    assert byte_level("Ġhé") == b" h\xe9"
    assert byte_level("<｜User｜>") == "<｜User｜>".encode()
