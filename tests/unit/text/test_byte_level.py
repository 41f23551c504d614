"""Byte-level vocabularies: the same ids as the ``tokenizers`` library gives, whatever the text."""

from __future__ import annotations

import random
import sys
from array import array
from pathlib import Path
from typing import Any

import corpus
import pytest
from against_library import Both, check, check_each_token, check_spelling, jumbles
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from trained import byte_level_metadata, train_byte_level

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from peers.library_byte_level import library_byte_level

from legato._text import ByteLevel
from legato.errors import ModelError
from legato.gguf_file import read_metadata
from legato.text.gguf_keys import TokenType
from legato.text.gguf_tokenizer import build_gguf_tokenizer
from legato.text.pieces import buffers, pieces_of
from legato.text.spelling import BYTE_ALPHABET
from legato.text.vocabulary import Tokenizer


def both(metadata: dict[str, Any]) -> Both:
    return build_gguf_tokenizer(Path("m.gguf"), metadata), library_byte_level(metadata)


@pytest.fixture(scope="module")
def smollm(smollm2_path: Path) -> Both:
    return both(read_metadata(smollm2_path))


@pytest.fixture(scope="module", params=["default", "gpt-2", "llama-bpe", "qwen2", "tekken"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    tokenizer = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    return both(byte_level_metadata(tokenizer, request.param, tmp_path_factory.mktemp("merges")))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary with a token for each byte, which SmolLM2's does not have."""
    tokenizer = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    metadata = byte_level_metadata(tokenizer, "llama-bpe", tmp_path_factory.mktemp("merges"))
    return build_gguf_tokenizer(Path("m.gguf"), metadata)


def test_smollm2_gives_the_librarys_ids(smollm: Both) -> None:
    for text in [*corpus.ALL_TEXTS, "\n".join(corpus.ALL_TEXTS), *jumbles(smollm[0], 2000)]:
        check(smollm, text)


def test_smollm2s_own_tokens_have_the_librarys_ids(smollm: Both) -> None:
    check_each_token(smollm)


def test_trained_vocabularies_give_the_librarys_ids(trained: Both) -> None:
    for text in [*corpus.ALL_TEXTS, *jumbles(trained[0], 500)]:
        check(trained, text)


LETTERS = {byte: letter for letter, byte in BYTE_ALPHABET.items()}


def vocabulary(alphabet: bytes, seed: int, pre: str) -> dict[str, Any]:
    """Tokens of any two others joined, by several pairs, some of which are listed twice."""
    draw = random.Random(seed)
    tokens = ["<s>", "<x>", *(LETTERS[byte] for byte in alphabet)]
    merges = []
    while len(tokens) < 50:
        left, right = draw.choice(tokens[2:]), draw.choice(tokens[2:])
        merges.append(f"{left} {right}")
        if left + right not in tokens:
            tokens.append(left + right)
    known = set(tokens)
    for token in tokens[2:]:
        ways = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += [" ".join(way) for way in ways if known.issuperset(way) and draw.random() < 0.4]
    draw.shuffle(merges)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3, 4] + [draw.choice((1, 1, 1, 5)) for _ in tokens[2:]],
    }


@pytest.mark.parametrize("alphabet", ["ab", "aé ", "日 b", "a\n \x00"])
@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_any_vocabulary_gives_the_librarys_ids(alphabet: str, pre: str) -> None:
    """Several ways to one token, merges that no joining reaches, bytes without a token."""
    draw = random.Random(alphabet + pre)
    for seed in range(12):
        pair = both(vocabulary(bytes(sorted(set(alphabet.encode()))), seed, pre))
        letters = [*alphabet, " ", "<x>", "<s>", "q", "ß", "e\u0301"]
        for _ in range(150):
            check(pair, "".join(draw.choices(letters, k=draw.randrange(25))))


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_no_text_becomes_a_control_token(pre: str) -> None:
    """Not even where the merges, or a whole word, lead to one."""
    tokens = ["a", "b", "ab", "Ġ", "Ġab", "c", "abc"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["a b", "Ġ ab", "ab c"],
        "tokenizer.ggml.token_type": [1, 1, 1, 1, TokenType.CONTROL, 1, TokenType.CONTROL],
    }
    tokenizer = build_gguf_tokenizer(Path("m.gguf"), metadata)

    def ids(text: str, parse_special: bool) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, parse_special=parse_special)

    assert ids("ab abc", False) == [2, 3, 2, 5]
    assert ids("ab abc", True) == [2, 3, 6]  # its piece is its name
    assert ids("Ġab", True) == [4]


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_text_comes_back(full: Tokenizer, text: str) -> None:
    ids = full.encode(text, add_special_tokens=False, parse_special=False)
    assert full.decode(ids, skip_special_tokens=False) == text


def test_all_tokens_at_once_are_spelled_as_one_by_one(smollm2: Tokenizer) -> None:
    check_spelling(smollm2)


class TestWhatIsWrongIsSaid:
    @pytest.mark.parametrize(
        ("merges", "problem"),
        [
            (["a b", "a q"], "merge 1: 'q' is no token"),
            (["q a"], "merge 0: 'q' is no token"),
            (["b a"], "merge 0: 'ba' is no token"),
            (["ab"], "merge 0: 'ab' is not two tokens"),
            ([""], "merge 0: '' is not two tokens"),
        ],
    )
    def test_in_a_file(self, merges: list[str], problem: str) -> None:
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": ["a", "b", "ab"],
            "tokenizer.ggml.merges": merges,
        }
        with pytest.raises(ModelError, match=rf"m\.gguf: key 'tokenizer\.ggml\.merges': {problem}"):
            build_gguf_tokenizer(Path("m.gguf"), metadata)

    def test_in_a_call(self) -> None:
        pieces = pieces_of(["a", "b"])
        none = buffers([])
        with pytest.raises(ValueError, match="not one a piece"):
            ByteLevel(pieces, bytes(1), *none, whole_words=False)
        with pytest.raises(ValueError, match="string 0 lies outside"):
            outside = b"a b", array("Q", [0]), array("Q", [4])
            ByteLevel(pieces, bytes(2), *outside, whole_words=False)
        with pytest.raises(ValueError, match="differ in length"):
            ByteLevel(pieces, bytes(2), b"a b", array("Q", [0]), array("Q"), whole_words=False)
        rules = ByteLevel(pieces, bytes([TokenType.NORMAL] * 2), *none, whole_words=False)
        assert rules.encode("aéb", [1, 3]) == [0, 1]
        assert rules.encode("", []) == []
        for ends in ([], [1], [2, 1]):
            with pytest.raises(ValueError, match="does not end where the text does"):
                rules.encode("aéb", ends)
        with pytest.raises(UnicodeEncodeError):
            rules.names("\ud800", parse_special=True)
        with pytest.raises(IndexError):
            rules.spell(2)
