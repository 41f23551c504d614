"""SentencePiece vocabularies: the same ids as the ``tokenizers`` library gives with all merges, whatever the text."""

from __future__ import annotations

import math
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
from trained import sentencepiece_metadata, train_sentencepiece

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from peers.library_sentencepiece import library_sentencepiece

from legato._text import Pieces, SentencePiece
from legato.errors import ModelError
from legato.gguf_file import read_metadata
from legato.text.gguf_keys import TokenType
from legato.text.gguf_tokenizer import build_gguf_tokenizer
from legato.text.pieces import pieces_of
from legato.text.vocabulary import Tokenizer


def both(metadata: dict[str, Any]) -> Both:
    return build_gguf_tokenizer(Path("m.gguf"), metadata), library_sentencepiece(metadata)


@pytest.fixture(scope="module")
def gemma(gemma3_path: Path) -> Both:
    return both(read_metadata(gemma3_path))


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "bare"])
def trained(request: pytest.FixtureRequest) -> Both:
    model = train_sentencepiece(space_prefix=request.param)
    return both(sentencepiece_metadata(model, space_prefix=request.param))


def test_gemma_gives_the_librarys_ids(gemma: Both) -> None:
    for text in [*corpus.ALL_TEXTS, "\n".join(corpus.ALL_TEXTS), *jumbles(gemma[0], 2000)]:
        check(gemma, text)


def test_gemmas_own_tokens_have_the_librarys_ids(gemma: Both) -> None:
    check_each_token(gemma)


def test_trained_vocabularies_give_the_librarys_ids(trained: Both) -> None:
    for text in [*corpus.ALL_TEXTS, *jumbles(trained[0], 1000)]:
        check(trained, text)


def vocabulary(alphabet: str, seed: int, *, with_bytes: bool, prefix: bool) -> dict[str, Any]:
    """Tokens of any two others joined, in any order of scores, some of which are equal."""
    draw = random.Random(seed)
    tokens = ["<unk>", "<s>", "<x>", *alphabet]
    while len(tokens) < 60:
        left, right = draw.choice(tokens[3:]), draw.choice(tokens[3:])
        if left + right not in tokens:
            tokens.append(left + right)
    types = [2, 3, 4] + [draw.choice((1, 1, 1, 1, 5)) for _ in tokens[3:]]
    if with_bytes:
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
        types += [6] * 256
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(draw.randrange(40)) for _ in tokens],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


@pytest.mark.parametrize("alphabet", ["ab", "aé▁", "▁<x>s", "a▁日😀"])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("with_bytes", [True, False])
def test_any_vocabulary_gives_the_librarys_ids(
    alphabet: str, prefix: bool, with_bytes: bool
) -> None:
    """Spaces in the middle of tokens, tokens that no joining reaches, equal scores, what is unknown."""
    draw = random.Random(alphabet)
    for seed in range(8):
        pair = both(vocabulary(alphabet, seed, with_bytes=with_bytes, prefix=prefix))
        letters = [*alphabet, " ", "<x>", "<s>", "<unk>", "q", "ß"]
        for _ in range(150):
            check(pair, "".join(draw.choices(letters, k=draw.randrange(25))))


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_text_comes_back(gemma3: Tokenizer, text: str) -> None:
    ids = gemma3.encode(text, add_special_tokens=False, parse_special=False)
    assert gemma3.decode(ids, skip_special_tokens=False) == text.replace("▁", " ")


def test_the_name_of_a_control_token_is_never_found_where_it_is_not_parsed(
    gemma3: Tokenizer,
) -> None:
    for id in gemma3.special_ids:
        ids = gemma3.encode(gemma3.token_text(id), add_special_tokens=False, parse_special=False)
        assert not gemma3.special_ids & set(ids)


def test_all_tokens_at_once_are_spelled_as_one_by_one(gemma3: Tokenizer) -> None:
    check_spelling(gemma3)


class TestPieces:
    def test_each_is_found(self) -> None:
        texts = ["", "a", "aa", "\x00", "\x00\x00", "日本", "😀", *(str(i) for i in range(5000))]
        pieces = pieces_of(texts)
        assert len(pieces) == len(texts)
        for id, text in enumerate(texts):
            assert pieces[id] == (text or "[EMPTY_0]")
            assert pieces.find(text or "[EMPTY_0]") == id
        assert pieces.find("absent") == pieces.find("") == -1
        with pytest.raises(IndexError):
            pieces[len(texts)]

    def test_none_at_all(self) -> None:
        assert pieces_of([]).find("a") == -1

    @pytest.mark.parametrize(
        "data", [b"\xff", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
    )  # fmt: skip
    def test_what_is_not_utf8_is_named(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="string 1 is not UTF-8"):
            Pieces(b"a" + data, array("Q", [0, 1]), array("Q", [1, 1 + len(data)]))

    @pytest.mark.parametrize(("start", "end"), [(2, 1), (0, 3), (2**63, 2**64 - 1)])
    def test_places_outside_are_named(self, start: int, end: int) -> None:
        with pytest.raises(ValueError, match="string 0 lies outside"):
            Pieces(b"ab", array("Q", [start]), array("Q", [end]))

    def test_one_that_occurs_twice_is_named(self) -> None:
        with pytest.raises(ValueError, match="string 2 occurs twice: 'a'"):
            pieces_of(["a", "b", "a"])


class TestWhatIsWrongIsSaid:
    def test_in_a_file(self) -> None:
        sound = vocabulary("ab", 0, with_bytes=False, prefix=True)
        build_gguf_tokenizer(Path("m.gguf"), sound)
        for key, value, problem in (
            ("scores", [math.nan, *sound["tokenizer.ggml.scores"][1:]], "not a number"),
            ("tokens", [*sound["tokenizer.ggml.tokens"][:-1], "a"], "occurs twice: 'a'"),
            ("token_type", [*sound["tokenizer.ggml.token_type"][:-1], 300], "0 to 6"),
            ("token_type", [*sound["tokenizer.ggml.token_type"][:-1], -1], "0 to 6"),
            ("unknown_token_id", 60, "not one of the 60"),
        ):
            broken = sound | {f"tokenizer.ggml.{key}": value}
            with pytest.raises(
                ModelError, match=rf"m\.gguf: key 'tokenizer\.ggml\.{key}': .*{problem}"
            ):
                build_gguf_tokenizer(Path("m.gguf"), broken)

    def test_in_a_call(self) -> None:
        pieces = pieces_of(["a", "b"])
        with pytest.raises(ValueError, match="not one a piece"):
            SentencePiece(pieces, bytes(1), array("f", [0, 0]), -1)
        with pytest.raises(ValueError, match="no id"):
            SentencePiece(pieces, bytes(2), array("f", [0, 0]), 2)
        rules = SentencePiece(pieces, bytes([TokenType.NORMAL] * 2), array("f", [0, 0]), -1)
        with pytest.raises(UnicodeEncodeError):
            rules.encode("\ud800", parse_special=True, prefix=False)
