"""Who is admitted: queue, shares, limits."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from legato.server import load
from legato.server.asker import ASKER, Asker, note_body
from legato.server.errors import TooManyRequestsError
from legato.server.load import Load


def test_ranks_grow_with_what_a_client_has_open() -> None:
    counted = Load(running=100, queue=100)
    with ExitStack() as stack:
        ranks = [stack.enter_context(counted.admitted(Asker("a"), 1)) for _ in range(9)]
        assert ranks == [0, 1, 2, 2, 3, 3, 3, 3, 4]
        assert stack.enter_context(counted.admitted(Asker("b"), 1)) == 0
        assert counted.open == 10
    assert counted.open == 0 and not counted._names and not counted._accounts


def test_a_full_queue_keeps_a_quarter_for_those_who_hold_little() -> None:
    counted = Load(running=4, queue=8)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(counted.admitted(Asker("a"), 1))
        with pytest.raises(TooManyRequestsError, match="10 answers are open"):
            stack.enter_context(counted.admitted(Asker("a"), 1))
        for _ in range(2):
            stack.enter_context(counted.admitted(Asker("b"), 1))
        with pytest.raises(TooManyRequestsError) as caught:
            stack.enter_context(counted.admitted(Asker("c"), 1))
        assert caught.value.headers == {"Retry-After": "1"}


def test_one_request_larger_than_everything_is_served_alone() -> None:
    with Load(running=4, queue=0).admitted(Asker("a"), 100):
        pass


def test_limits_hold_accounts_and_shares_are_users() -> None:
    counted = Load(per_client=3)
    with counted.admitted(Asker("address x", user="user 1"), 2):
        with pytest.raises(TooManyRequestsError, match="more than 3 answers"):
            counted.admitted(Asker("address x", user="user 2"), 2).__enter__()
        with counted.admitted(Asker("address y", user="user 1"), 2) as rank:
            assert rank == 2


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
        ASKER.set(Asker(account))
        note_body(body)
        return ASKER.get()

    assert noted("address x", {"user": "me"}).name == "user me"
    assert noted("address x", {"metadata": {"user_id": "me"}}).name == "user me"
    assert noted("address x", {"user": 3}).name == "address x"
    assert noted("key 1", {"user": "me"}).name == "key 1"
    assert noted("key 1", {"timeout": 2}).timeout == 2.0
