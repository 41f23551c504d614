"""The table of who decides, row by row, and as the docs show it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from legato.config import ASSISTANT_PREFILLS
from legato.errors import RequestError
from legato.text.precedence import RULES, Outcome, Signals, as_markdown, decide, said

DOCS = Path(__file__).parents[3] / "docs" / "continuation.md"


def outcome(
    last: str = "assistant",
    cont: bool | str | None = None,
    add: bool | None = None,
    prefix: bool = False,
    policy: str = "continue",
) -> str:
    signals = Signals(last, said(cont), said(add), said(prefix or None), policy)
    try:
        return decide(signals).value
    except RequestError:
        return "400"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "continue"),
        ({"policy": "new-turn"}, "new turn"),
        ({"policy": "reject"}, "400"),
        ({"last": "other", "policy": "reject"}, "new turn"),
        ({"cont": True, "policy": "reject"}, "continue"),
        ({"cont": "reasoning_content", "policy": "new-turn"}, "continue"),
        ({"prefix": True, "policy": "reject"}, "continue"),
        ({"add": True}, "new turn"),
        ({"add": True, "policy": "reject"}, "new turn"),
        ({"add": False}, "continue"),
        ({"add": False, "policy": "new-turn"}, "as it is"),
        ({"cont": False}, "new turn"),
        ({"cont": False, "add": False}, "as it is"),
        ({"cont": False, "add": True}, "new turn"),
        ({"cont": True, "add": True}, "400"),
        ({"cont": True, "prefix": True}, "continue"),
        ({"cont": False, "prefix": True}, "400"),
        ({"add": True, "prefix": True}, "400"),
        ({"last": "other"}, "new turn"),
        ({"last": "other", "add": False}, "as it is"),
        ({"last": "other", "cont": True}, "400"),
        ({"last": "other", "prefix": True}, "400"),
    ],
)
def test_who_decides(asked: dict[str, object], expected: str) -> None:
    assert outcome(**asked) == expected  # type: ignore[arg-type]


def test_every_request_has_a_rule_and_every_rule_a_request() -> None:
    values = (("assistant", "other"), ("-", "true", "false"), ("-", "true", "false"), ("-", "true"))
    used = set()
    for cells in itertools.product(*values, ASSISTANT_PREFILLS):
        signals = Signals(*cells)
        used.add(next(index for index, rule in enumerate(RULES) if rule.fits(signals)))
    assert used == set(range(len(RULES)))


def test_refusals_name_a_field() -> None:
    refusing = [rule for rule in RULES if rule.outcome is Outcome.REFUSE]
    assert all(rule.message and rule.field for rule in refusing)


def test_the_docs_show_this_table() -> None:
    assert as_markdown() in DOCS.read_text(encoding="utf-8")
