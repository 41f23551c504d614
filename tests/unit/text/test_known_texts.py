"""Texts that are encoded again: the same ids, without encoding, and only for who has the salt."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import corpus
import pytest

from legato.text.byte_level import ByteLevelEncoder
from legato.text.known_texts import KnownTexts
from legato.text.vocabulary import Tokenizer


class Encoding:
    """Ids of a text, and which texts were asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> list[int]:
        self.texts.append(text)
        return [ord(letter) for letter in text]


@pytest.fixture
def encode() -> Encoding:
    return Encoding()


def test_a_text_is_encoded_once_for_each_salt(encode: Encoding) -> None:
    known = KnownTexts()
    for salt in ("", "a", "ab", "", "a", "ab"):
        for text in ("bc", "c", "äö😀"):
            assert known.ids(salt, text, encode) == [ord(letter) for letter in text]
    assert sorted(encode.texts) == sorted(["bc", "c", "äö😀"] * 3)
    assert len(known) == 9 and known.tokens == 3 * 6


def test_salt_and_text_do_not_run_into_each_other(encode: Encoding) -> None:
    known = KnownTexts()
    for salt, text in (("a", "bc"), ("ab", "c"), ("", "abc"), ("a" * 512, "x"), ("a" * 513, "x")):
        known.ids(salt, text, encode)
    assert len(encode.texts) == len(known) == 5


def test_what_is_given_out_is_the_callers(encode: Encoding) -> None:
    known = KnownTexts()
    known.ids("", "abc", encode).clear()
    known.ids("", "abc", encode).clear()
    assert known.ids("", "abc", encode) == [97, 98, 99]


def test_the_least_recently_used_makes_room(encode: Encoding) -> None:
    known = KnownTexts(max_tokens=10, max_texts=3)
    for text in ("aaa", "bbb", "ccc", "aaa", "dddd"):  # 13 tokens, of which b's are the oldest
        known.ids("", text, encode)
    assert known.tokens == 10 and len(known) == 3
    encode.texts.clear()
    for text in ("aaa", "ccc", "dddd"):
        known.ids("", text, encode)
    assert encode.texts == []
    for text in ("e", "f", "g"):
        known.ids("", text, encode)
    assert known.tokens == 3 and len(known) == 3


def test_what_is_too_long_is_not_kept(encode: Encoding) -> None:
    known = KnownTexts(max_tokens=10)
    known.ids("", "abc", encode)
    assert len(known.ids("", "x" * 11, encode)) == 11
    assert known.tokens == len(known) == 0


def test_many_threads(encode: Encoding) -> None:
    known = KnownTexts(max_tokens=400, max_texts=30)
    texts = ["".join(random.Random(n).choices("abcdef", k=n % 40)) for n in range(60)]

    def ask(seed: int) -> bool:
        draw = random.Random(seed)
        return all(
            known.ids("", text, encode) == [ord(letter) for letter in text]
            for text in draw.choices(texts, k=2000)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    assert known.tokens <= 400 and len(known) <= 30
    assert known.tokens == sum(map(len, known._used.values()))


def test_ids_are_those_of_a_tokenizer_that_remembers_nothing(tokenizer: Tokenizer) -> None:
    """Texts that end, begin, and contain others, in any order, with control tokens and without."""
    draw = random.Random(3)
    remembering = tokenizer.remembering("")
    names = [tokenizer.token_text(id) for id in sorted(tokenizer.special_ids)[:8]]
    pieces = [*corpus.ALL_TEXTS, *(text * 20 for text in corpus.ALL_TEXTS), *names, " ", "\n"]
    for _ in range(300):
        text = "".join(draw.choices(pieces, k=5))
        for parse_special in (True, False):
            ids = tokenizer.encode(text, parse_special=parse_special)
            assert remembering.encode(text, parse_special=parse_special) == ids


def test_a_salt_does_not_use_what_another_one_encoded(
    smollm2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a tokenizer without one neither remembers nor knows anything."""
    encoder = smollm2._encoder
    assert isinstance(encoder, ByteLevelEncoder)
    cut: list[str] = []

    def counted(text: str) -> tuple[str, list[int]]:
        cut.append(text)
        return cutter.cut(text)

    cutter = encoder._cutter
    monkeypatch.setattr(encoder, "_cutter", SimpleNamespace(cut=counted))
    text = "to be or not to be, " * 20
    once, again = [text], [text, text]
    for tokenizer, expected in (
        (smollm2, once),
        (smollm2, again),
        (smollm2.remembering("a"), [*again, text]),
        (smollm2.remembering("a"), [*again, text]),
        (smollm2.remembering("b"), [*again, text, text]),
        (smollm2, [*again, text, text, text]),
    ):
        tokenizer.encode(text)
        assert cut == expected
