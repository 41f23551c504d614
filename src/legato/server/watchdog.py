"""The watchdog: an engine that owes a step and does not bring it hangs.

A process that was stopped (a paused container or virtual machine, SIGSTOP) cannot tell whether the engine was,
too: its time begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LEAST_SECONDS = 30.0
SECONDS_PER_GB = 10.0
"""A step reads all weights and computes up to 512 tokens: ten seconds for a GB of them is far more than
any processor with vector instructions takes."""


def default_timeout(weight_bytes: int) -> float:
    """Seconds."""
    return LEAST_SECONDS + SECONDS_PER_GB * weight_bytes / 1e9


class Watchdog:
    """``owes``: whether the engine has work; ``listen``: hears what has arrived but was not looked at;
    ``bite``: is called with the seconds of silence when they are too many."""

    def __init__(
        self, owes: Callable[[], bool], listen: Callable[[], None], bite: Callable[[float], None]
    ) -> None:
        self._owes, self._listen, self._bite = owes, listen, bite
        self._heard = 0.0
        self._task: asyncio.Task[None] | None = None

    def hear(self) -> None:
        """The engine is alive, or has only now got something to do."""
        self._heard = asyncio.get_running_loop().time()

    def start(self, timeout: float) -> None:
        self.stop()
        self.hear()
        self._task = asyncio.get_running_loop().create_task(self._watch(timeout))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asleep = loop.time()
            await asyncio.sleep(timeout / 8)
            was_stopped = loop.time() - asleep > timeout / 4  # and the engine perhaps with it
            if was_stopped or not self._owes():
                self.hear()
            elif loop.time() - self._heard > timeout:
                self._listen()  # this process may be the one that was held up
                silence = loop.time() - self._heard
                if silence > timeout:
                    self._bite(silence)
                    return
