"""Who is admitted: queue, shares, limits."""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import copy_context

import pytest

from legato.errors import RequestError
from legato.server import load
from legato.server.asker import ASKER, Asker, note_body
from legato.server.errors import TooManyRequestsError
from legato.server.load import Load, Place


def admitted(load: Load, asker: Asker, choices: int) -> Place:
    """A request with one prompt."""
    return load.admit(asker, [choices])[0]


def test_ranks_grow_with_what_a_client_has_open() -> None:
    counted = Load(running=100, queue=100)
    with ExitStack() as stack:
        assert stack.enter_context(admitted(counted, Asker("b"), 1)).rank == 0
        ranks = [stack.enter_context(admitted(counted, Asker("a"), 1)).rank for _ in range(9)]
        assert ranks == [0, 1, 2, 2, 3, 3, 3, 3, 4]
        assert counted.open == 10
    assert counted.open == 0 and not counted._places and not counted._accounts


def test_those_behind_move_up() -> None:
    """The oldest of a client has rank 0, whatever else is open; each is told when its rank changes."""
    counted = Load(running=100, queue=100)
    other = admitted(counted, Asker("b"), 1)
    places = counted.admit(Asker("a"), [1, 2, 1, 1])
    told: list[tuple[int, int]] = []
    for number, place in enumerate(places):
        place.moved = lambda rank, number=number: told.append((number, rank))
    assert [place.rank for place in places] == [0, 1, 2, 3]
    places[1].__exit__()
    assert told == [(2, 1), (3, 2)]
    places[0].__exit__()
    assert [place.rank for place in places[2:]] == [0, 1]
    later = admitted(counted, Asker("a"), 1)
    assert later.rank == 2  # nobody overtakes what the same client asked earlier
    for place in (*places, later, other):
        place.__exit__()
    assert counted.open == 0 and not counted._places


def test_ranks_matter_only_beside_others() -> None:
    """Who is alone is served in the order of asking, and nobody is told anything; then ranks are made true."""
    counted = Load(running=100, queue=100)
    places = counted.admit(Asker("a"), [1] * 5)
    told: list[int] = []
    for place in places:
        place.moved = told.append
    for place in places[:4]:
        place.__exit__()
    assert [place.rank for place in places] == [0, 1, 2, 2, 3] and not told
    assert admitted(counted, Asker("a"), 1).rank == 3
    with admitted(counted, Asker("b"), 1):
        assert places[4].rank == 0 and told == [0]


def test_a_full_queue_keeps_a_quarter_for_those_who_hold_little() -> None:
    counted = Load(running=4, queue=8)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(admitted(counted, Asker("a"), 1))
        with pytest.raises(TooManyRequestsError, match="10 answers are open"):
            stack.enter_context(admitted(counted, Asker("a"), 1))
        for _ in range(2):
            stack.enter_context(admitted(counted, Asker("b"), 1))
        with pytest.raises(TooManyRequestsError) as caught:
            stack.enter_context(admitted(counted, Asker("c"), 1))
        assert caught.value.headers == {"Retry-After": "1"}


def test_a_request_that_never_fits_is_wrong() -> None:
    """Not too many now, but too many: trying again would not help."""
    for limits, most in (({"running": 4, "queue": 2}, 6), ({"per_client": 3}, 3)):
        counted = Load(**limits)
        with counted.admit(Asker("a"), [most])[0]:
            assert counted.open == most
        for choices, field in (([most + 1], "n"), ([1] * (most + 1), "prompt"), ([2] * most, "n")):
            with pytest.raises(RequestError, match=f"is for {sum(choices)} answers") as caught:
                counted.admit(Asker("a"), choices)
            assert caught.value.field == field and str(most) in str(caught.value)
        assert counted.open == 0


def test_the_prompts_of_a_request_are_admitted_together() -> None:
    counted = Load(running=4, queue=4, per_minute=2)
    other = admitted(counted, Asker("b"), 1)
    places = counted.admit(Asker("a"), [2, 2, 2])
    assert [place.rank for place in places] == [0, 2, 3]
    with pytest.raises(TooManyRequestsError, match="7 answers are open"):
        counted.admit(Asker("b"), [1, 1])
    assert counted.open == 7
    other.__exit__()
    for place in places:
        for _ in range(2):  # it is left once
            place.__exit__()
    assert counted.open == 0
    counted.admit(Asker("a"), [1])  # each request counts once a minute, not each prompt
    with pytest.raises(TooManyRequestsError, match="2 requests a minute"):
        counted.admit(Asker("a"), [1])


def test_limits_hold_accounts_and_shares_are_users() -> None:
    counted = Load(per_client=3)
    other = admitted(counted, Asker("address z"), 1)
    with other, admitted(counted, Asker("address x", user="user 1"), 2):
        with pytest.raises(TooManyRequestsError, match="more than 3 answers"):
            admitted(counted, Asker("address x", user="user 2"), 2)
        with admitted(counted, Asker("address y", user="user 1"), 2) as place:
            assert place.rank == 2


def test_rates_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(load.time, "monotonic", lambda: now)
    monkeypatch.setattr(load, "MAX_ACCOUNTS", 2)
    rates = load.Rates(6)
    for _ in range(6):
        rates.take("a")
    with pytest.raises(TooManyRequestsError) as caught:
        rates.take("a")
    assert caught.value.headers == {"Retry-After": "10"}
    now += 10
    rates.take("a")
    for name in ("b", "c", "d"):
        rates.take(name)
    assert len(rates._accounts) == 2


def test_the_body_names_the_user_unless_a_key_does() -> None:
    def noted(account: str, body: dict[str, object]) -> Asker:
        def note() -> Asker:
            ASKER.set(Asker(account))
            note_body(body)
            return ASKER.get()

        return copy_context().run(note)  # as in the request's own task

    assert noted("address x", {"user": "me"}).name == "user me"
    assert noted("address x", {"metadata": {"user_id": "me"}}).name == "user me"
    assert noted("address x", {"user": 3}).name == "address x"
    assert noted("key 1", {"user": "me"}).name == "key 1"
    assert noted("key 1", {"timeout": 2}).timeout == 2.0
