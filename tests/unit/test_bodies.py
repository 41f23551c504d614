"""Room for large bodies: first come, first served, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from legato.server import bodies
from legato.server.bodies import Bodies
from legato.server.errors import TooManyRequestsError


async def a_moment() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    room = Bodies(100)
    assert await room.take(60) == 60
    waiting = [asyncio.create_task(room.take(size)) for size in (50, 40, 30)]
    await a_moment()
    assert not any(task.done() for task in waiting)  # 40 would fit, but 50 came first
    room.give_back(60)
    await a_moment()
    assert [task.done() for task in waiting] == [True, True, False] and room.held == 90
    room.give_back(50)
    await a_moment()
    assert waiting[2].result() == 30 and room.held == 70


async def test_one_larger_than_all_has_it_for_itself() -> None:
    room = Bodies(100)
    assert await room.take(500) == 100
    other = asyncio.create_task(room.take(1))
    await a_moment()
    assert not other.done()
    room.give_back(100)
    assert await other == 1


async def test_who_leaves_gives_way() -> None:
    room = Bodies(100)
    await room.take(90)
    large, small = (asyncio.create_task(room.take(size)) for size in (50, 10))
    await a_moment()
    large.cancel()
    assert await small == 10 and room.held == 100
    given = asyncio.create_task(room.take(90))
    await a_moment()
    room.give_back(90)
    given.cancel()  # in the same moment as it was given room
    await asyncio.wait((given,))
    assert room.held == 10 + (0 if given.cancelled() else 90)


async def test_patience_and_the_queue_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.05)
    monkeypatch.setattr(bodies, "MOST_WAITING", 3)
    room = Bodies(100)
    await room.take(100)
    results = await asyncio.gather(*(room.take(10) for _ in range(5)), return_exceptions=True)
    for error in results:
        assert isinstance(error, TooManyRequestsError) and error.headers == {"Retry-After": "1"}
        assert "--max-bodies-bytes" in str(error)
    room.give_back(100)
    assert room.held == 0 and not room._waiting
