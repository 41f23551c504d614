"""Which tokens fit a text that was cut inside a token."""

from __future__ import annotations

from legato.batch import U32
from legato.constraint.healing import Healing
from legato.constraint.tokens import TokenTable

TOKENS = [
    *(b"a", b"b", b"c", b" ", b"ab", b"abc", b" a", b" ab", b"abab", b"</s>"),
    *(b"", b"\xff", b"\xff\xff", b"bc"),
]
TABLE = TokenTable.of(TOKENS, special_ids=[9], eos_ids=[9])


def ids(mask: U32) -> set[bytes]:
    words = mask.tolist()
    found = {i for i in range(len(TOKENS)) if words[i // 32] >> (i % 32) & 1}
    assert 9 not in found and 10 not in found  # control tokens and empty ones spell nothing
    return {TOKENS[i] for i in found}


def test_tokens_by_their_beginning() -> None:
    def spelled(start: bytes) -> set[bytes]:
        return {TOKENS[id] for id in TABLE.extending(start)}

    assert spelled(b"ab") == {b"ab", b"abc", b"abab"}
    assert spelled(b" ") == {b" ", b" a", b" ab"}
    assert spelled(b"\xff") == {b"\xff", b"\xff\xff"}
    assert spelled(b"\xff\xff") == {b"\xff\xff"}
    assert spelled(b"z") == spelled(b"</") == set()
    assert TABLE.equal(b"abc") == [5] and TABLE.equal(b"x") == []
    assert TABLE.longest(b"ababx") == 8 and TABLE.longest(b"x") is None
    assert TABLE.text([0, 3, 6]) == b"a  a"


def test_a_token_fits_if_it_is_the_beginning_or_goes_beyond() -> None:
    (fit,) = Healing(TABLE, b"ab", [4]).fits()
    assert ids(fit.allowed) == {b"a", b"ab", b"abc", b"abab"}
    assert ids(fit.fallback) == {b"ab", b"abc", b"abab"}  # not "a": the tokenizer writes "ab"


def test_there_is_a_fit_for_each_token_of_the_draft() -> None:
    first, second = Healing(TABLE, b" abc", [7, 2]).fits()
    assert ids(first.allowed) == {b" ", b" a", b" ab"}
    assert ids(first.fallback) == {b" ab"}
    assert ids(second.allowed) == ids(second.fallback) == {b"c"}


def test_a_draft_that_does_not_spell_the_text_is_replaced() -> None:
    assert Healing(TABLE, b" ab", [0]).draft == Healing(TABLE, b" ab", []).draft == [7]


def test_another_choice_changes_the_draft() -> None:
    healing = Healing(TABLE, b" abc", [7, 2])
    healing.accept(6)  # " a"
    assert healing.pending == b"bc" and healing.draft == [13]
    healing.accept(1)
    assert healing.pending == b"c" and healing.draft == [2]
    healing.accept(2)
    assert healing.pending == b"" and healing.draft == []


def test_a_token_beyond_the_end_ends_it() -> None:
    healing = Healing(TABLE, b"a", [5])
    assert healing.draft == [5]  # a remembered token may be longer than what was given
    healing.accept(8)
    assert healing.pending == b""
