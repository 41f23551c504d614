"""Whoever waits for an answer steps the engine for all: the turns, and what happens outside of one."""

from __future__ import annotations

import threading
from typing import Any, cast

from legato.engine import Engine
from legato.request import Output
from legato.shared_engine import FairLock, SharedEngine


def test_a_turn_goes_to_who_waits() -> None:
    """Another thread gets it at once, although the first wants it back after each."""
    lock, waits, turns = FairLock(), threading.Event(), 0

    def wait() -> None:
        waits.set()
        with lock:
            got.append(turns)

    got: list[int] = []
    other = threading.Thread(target=wait)
    with lock:
        other.start()
        waits.wait(10)
        while not lock._next.locked():
            pass
    for _ in range(1000):
        with lock:
            turns += 1
    other.join(10)
    assert got == [0]


class Steps:
    """An engine in whose step something happens."""

    def __init__(self) -> None:
        self.has_work, self.is_stepping = True, False
        self.during: Any = lambda: None
        self.cancelled: list[str] = []

    def step(self) -> list[Output]:
        self.is_stepping = True
        self.during()
        self.is_stepping = False
        return []

    def cancel(self, request_id: str) -> None:
        assert not self.is_stepping
        self.cancelled.append(request_id)


def test_what_is_closed_within_a_step_is_cancelled_before_the_next() -> None:
    """By the garbage collector, say: in the thread that steps, which must not wait for itself."""
    engine = Steps()
    shared = SharedEngine(cast(Engine, engine))
    engine.during = lambda: shared._leave(["a"])
    with shared.turn:
        shared._step()
    assert engine.cancelled == []
    engine.during = lambda: None
    shared._leave(["b"])
    assert engine.cancelled == ["a", "b"]
