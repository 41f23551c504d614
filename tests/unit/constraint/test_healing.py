"""Which tokens fit a text that was cut inside a token."""

from __future__ import annotations

import random

import numpy as np
import pytest

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
    (fit,) = Healing(TABLE, b"ab", [4]).fits(9)
    assert ids(fit.allowed) == {b"a", b"ab", b"abc", b"abab"}
    assert ids(fit.fallback) == {b"ab", b"abc", b"abab"}  # not "a": the tokenizer writes "ab"


def test_there_is_a_fit_for_each_token_of_the_draft() -> None:
    first, second = Healing(TABLE, b" abc", [7, 2]).fits(9)
    assert ids(first.allowed) == {b" ", b" a", b" ab"}
    assert ids(first.fallback) == {b" ab"}
    assert ids(second.allowed) == ids(second.fallback) == {b"c"}


def plain_fits(
    tokens: list[bytes], special: set[int], healing: Healing
) -> list[tuple[set[int], set[int]]]:
    """The rule, asked of each token: what fits, and what to choose from otherwise."""
    spelled = {id: text for id, text in enumerate(tokens) if text and id not in special}
    found, left, draft = [], healing.pending, [*healing.draft]
    while left:
        beyond = {id for id, text in spelled.items() if text.startswith(left)}
        within = {id for id, text in spelled.items() if left.startswith(text) and text != left}
        fallback = within if not beyond else set()
        if draft and len(tokens[draft[0]]) > len(left):  # of a remembered answer
            found.append((within | beyond, {draft[0]}))
            break
        found.append((within | beyond, beyond | ({draft[0]} if draft else fallback)))
        if not draft:
            break
        left = left[len(tokens[draft.pop(0)]) :]
        if not draft:
            break
    return found


@pytest.mark.parametrize("seed", range(20))
def test_what_fits_is_what_the_plain_rule_says(seed: int) -> None:
    """Tokens that are there twice, that spell nothing, and text longer than any of them."""
    draw = random.Random(seed)
    letters = [b"a", b"b", b" ", b"\x00", b"\xff", b"\xc3\xa9"][: draw.randrange(2, 7)]

    def text(most: int) -> bytes:
        return b"".join(draw.choices(letters, k=draw.randrange(most)))

    tokens = [*letters[: draw.randrange(1, 7)], *(text(6) for _ in range(200))]
    special = set(draw.sample(range(len(tokens)), 3))
    table = TokenTable.of(tokens, special, [min(special)])
    spelling = [id for id, token in enumerate(tokens) if token and id not in special]
    for _ in range(20):
        given = draw.choices(spelling, k=draw.randrange(1, 12))
        pending = table.text(given)[: -draw.randrange(3) or None] or b"a"
        for draft in (given, []):
            healing = Healing(table, pending, draft)
            expected = plain_fits(tokens, special, healing)
            for most in (1, 3, 99):
                fits = [tuple(map(bits, fit)) for fit in healing.fits(most)]
                assert fits == expected[:most]
            assert healing.num_steps == len(expected)


def bits(mask: U32) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


class CountingTable(TokenTable):
    """Counts the tokens that are looked at."""

    looked_at = 0

    def token(self, id: int) -> bytes:
        self.looked_at += 1
        return super().token(id)


def test_a_long_text_costs_no_more_than_its_tokens() -> None:
    spaces = TokenTable.of([b" " * length for length in range(1, 9)] + [b"</s>"], [8], [8])
    table = CountingTable(spaces.spellings)
    table.sort()
    healing = Healing(table, b" " * 2048, [7] * 256)
    table.looked_at = 0
    (first,) = healing.fits(1)
    assert bits(first.allowed) == {*range(8)} and bits(first.fallback) == {7}
    assert table.looked_at < 200
    other = Healing(table, b" " * 2048, healing.draft)
    table.looked_at = 0
    (second,) = other.fits(1)
    assert second is first and table.looked_at == 0  # choices share it


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
