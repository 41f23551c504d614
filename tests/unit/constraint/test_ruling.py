"""Which drawn tokens a grammar has a say on, and what it says."""

from __future__ import annotations

import pytest

from legato.constraint.constraint import Rules
from legato.constraint.grammar import Grammar
from legato.constraint.healing import Fit
from legato.constraint.ruling import Ruled
from legato.constraint.tokens import TokenTable
from legato.text import grammar as sources

FIRST, SECOND, OK, X, END = range(5)
TABLE = TokenTable.of([b"o", b"k", b"ok", b"x", b"</s>"], [END], [END])


@pytest.mark.parametrize(
    ("draft", "drawn", "refused"),
    [
        ([], [OK], None),
        ([], [X], 0),
        ([FIRST], [FIRST, SECOND], None),
        ([FIRST], [FIRST, X], 1),
        ([FIRST], [X, SECOND], 0),
        ([FIRST, SECOND], [OK, X, X], None),  # behind a token that was not drafted nothing counts,
        ([OK, END], [OK, END, X], None),  # nor behind the end
        ([OK, END], [OK, END, END], None),
        ([OK, END], [OK, X, END], 1),
        ([OK, END, X], [OK, END, X, SECOND], None),
        ([FIRST, END], [FIRST, END, X], 1),
    ],
)
def test_what_is_refused(draft: list[int], drawn: list[int], refused: int | None) -> None:
    grammar = Grammar.compile(sources.regex("ok", "regex"), TABLE)
    ruled = Ruled(Rules([], [], grammar), 2, draft, None)
    found = ruled.refusal([X, X, *drawn])
    assert (None if found is None else found.row - 2) == refused


@pytest.mark.parametrize(
    ("fallback", "chosen"),
    [([OK], [OK]), ([OK, SECOND], [OK]), ([SECOND], [FIRST, OK]), ([], [FIRST, OK])],
)
def test_what_a_refused_row_may_choose(fallback: list[int], chosen: list[int]) -> None:
    """What fits the given text and the grammar: of that the fallback, where the grammar takes one of it."""
    grammar = Grammar.compile(sources.regex("(ok|x)+", "regex"), TABLE)
    fit = Fit(TABLE.mask([FIRST, SECOND, OK]), TABLE.mask(fallback))
    ruled = Ruled(Rules([], [fit], grammar), 0, [], None)
    assert ruled.choice(TABLE.mask([FIRST, OK, X]), []).tolist() == TABLE.mask(chosen).tolist()
