"""Requests whose grammar is being compiled: what is said of them meanwhile counts."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from legato.constraint import arriving
from legato.constraint.arriving import Arriving
from legato.constraint.compiling import compile_grammar
from legato.constraint.grammar import Grammar
from legato.constraint.tokens import TokenTable
from legato.errors import EngineError, LegatoError
from legato.request import FinishReason, Request, SamplingParams
from legato.text import grammar as sources

TABLE = TokenTable.of([b"o", b"k", b"</s>"], [2], [2])


@pytest.fixture
def may_compile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """No grammar is compiled before it is set."""
    event = Event()

    def compile(*arguments: Any) -> Grammar:
        assert event.wait(20)
        return compile_grammar(*arguments)

    monkeypatch.setattr(arriving, "compile_grammar", compile)
    yield event
    event.set()


def ask(n: int = 1) -> Request:
    return Request(
        id="a",
        prompt_token_ids=[1],
        params=SamplingParams(n=n),
        grammar=sources.regex("ok", "regex"),
    )


def waiting(request: Request) -> Arriving:
    requests = Arriving()
    requests.describe(TABLE)
    requests.add(request)
    return requests


def arrived(requests: Arriving) -> tuple[Request, list[Grammar] | LegatoError]:
    while True:
        for found in requests.take(waits=True):
            return found


def test_who_is_ranked_meanwhile_begins_with_that_priority(may_compile: Event) -> None:
    requests = waiting(ask())
    requests.rank("a", 7)
    assert not [*requests.take(waits=False)]
    may_compile.set()
    request, grammars = arrived(requests)
    assert request.priority == 7 and isinstance(grammars, list)
    assert not requests.has_work


def test_a_choice_that_is_cancelled_meanwhile_does_not_begin(may_compile: Event) -> None:
    requests = waiting(ask(n=3))
    [end] = requests.cancel("a", 1)
    assert (end.index, end.finish_reason) == (1, FinishReason.ABORT)
    may_compile.set()
    request, _ = arrived(requests)
    assert [one.index for one in request.progress or []] == [0, 2]


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError("no room")])
def test_what_goes_wrong_is_the_requests_unless_it_is_nobodys(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Grammar:
        raise error

    monkeypatch.setattr(arriving, "compile_grammar", fail)
    requests = waiting(ask())
    if isinstance(error, MemoryError):
        with pytest.raises(MemoryError):
            arrived(requests)
        return
    _, found = arrived(requests)
    assert isinstance(found, EngineError) and "could not be made ready" in str(found)
