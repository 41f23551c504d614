"""TokenTable against plain Python: what is found among tokens, and in what order."""

from __future__ import annotations

import random
from array import array

import pytest

from legato._text import order_of
from legato.constraint.tokens import TokenTable


def random_tokens(seed: int) -> list[bytes]:
    """Equal ones, empty ones, some that begin alike for longer than eight bytes, zeros at the end."""
    draw = random.Random(seed)
    letters = [b"a", b"b", b"\x00", b"\xff", b"12345678", b"\xc3\xa9"]
    return [b"".join(draw.choices(letters, k=draw.randrange(5))) for _ in range(400)]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found(seed: int) -> None:
    tokens = random_tokens(seed)
    special = {0, 7, 399}
    table = TokenTable.of(tokens, special, [7])
    known = [id for id, token in enumerate(tokens) if token and id not in special]
    in_order = sorted(known, key=tokens.__getitem__)
    for start in {token[:length] for token in tokens for length in range(1, len(token) + 1)}:
        expected = [id for id in in_order if tokens[id].startswith(start)]
        assert table.extending(start).tolist() == expected
        assert table.equal(start) == [id for id in in_order if tokens[id] == start]
        fitting = [id for id in in_order if start.startswith(tokens[id])]
        longest = max((len(tokens[id]) for id in fitting), default=0)
        first = next((id for id in fitting if len(tokens[id]) == longest), None)
        assert table.longest(start) == first
        shortest_first = sorted(fitting, key=lambda id: len(tokens[id]))
        assert table.beginnings(start) == shortest_first
        assert table.beginnings(start + b"a" * 99)[: len(fitting)] == shortest_first


def test_a_vocabulary_that_spells_nothing() -> None:
    table = TokenTable.of([b"", b"x"], [1], [1])
    assert table.extending(b"x").tolist() == []
    assert table.longest(b"x") is None and table.beginnings(b"x") == []


def test_what_lies_outside_is_named() -> None:
    assert array("i", order_of(b"ba", array("i", [1, 2]), [])).tolist() == [1, 0]
    with pytest.raises(ValueError, match="ends: string 1 lies outside"):
        order_of(b"ba", array("i", [1, 3]), [])
    with pytest.raises(ValueError, match="ends: string 1 lies outside"):
        order_of(b"ba", array("i", [2, 1]), [])
    with pytest.raises(ValueError, match="left_out: no string 2"):
        order_of(b"ba", array("i", [1, 2]), [2])
