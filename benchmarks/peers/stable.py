"""Keeps the contestants that have run, as long as memory lasts: an idle one does not disturb."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter

from peers.contestants import Contestant, Room
from peers.engines import Engine

BEGINNING = [[504, 253, 506, 28]]  # any tokens: what the first one after a start is asked for with
LEAST_FREE = 6 << 30  # bytes that must be available before another one is started


class Stable(AbstractContextManager["Stable"]):
    """``greet`` is called with each engine once it is ready; it may refuse it with EngineError."""

    def __init__(self, room: Room, greet: Callable[[Engine], None]) -> None:
        self._room = room
        self._greet = greet
        self._running: dict[str, tuple[AbstractContextManager[Engine], Engine]] = {}
        self.starts: dict[
            str, tuple[float, int]
        ] = {}  # seconds to the first token; bytes held then

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self._stop(name)

    def ready(self, contestant: Contestant) -> Engine:
        """It, running; the one that has not run for longest ends if memory is short."""
        name = contestant.name
        if name in self._running:
            self._running[name] = self._running.pop(name)  # the last one to end
            return self._running[name][1]
        while self._running and available() < LEAST_FREE:
            self._stop(next(iter(self._running)))
        began = perf_counter()
        manager = contestant.start(self._room)
        try:
            engine = manager.__enter__()
            self._running[name] = (manager, engine)
            engine.run(BEGINNING, 1, 1)
            self.starts[name] = perf_counter() - began, engine.resident_bytes()
            self._greet(engine)
        except BaseException:
            manager.__exit__(None, None, None)
            self._running.pop(name, None)
            raise
        return engine

    def stop(self, contestant: Contestant) -> None:
        if contestant.name in self._running:
            self._stop(contestant.name)

    def _stop(self, name: str) -> None:
        manager, _ = self._running.pop(name)
        manager.__exit__(None, None, None)


def available() -> int:
    """Bytes that can be used without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
