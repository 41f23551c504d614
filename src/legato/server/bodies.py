"""Bodies: how many bytes of large requests are here at once, over all connections.

A body takes many times its size while it is read and understood, and clients send as many as they
like. So a large one has to have room before more than its beginning is read, and holds it until its
request has been answered. Until there is room nothing is read from its connection: its client waits,
as it would for a slow network. Small bodies, which nearly all are, never wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from legato.server.errors import TooManyRequestsError
from legato.spare_memory import give_back

SMALL: Final = 65_536
"""Bytes that need no room: what each connection has in its buffer anyway."""

MOST_WAITING: Final = 64
"""Bodies that wait for room; more are refused."""

PATIENCE: Final = 30.0
"""Seconds that one waits."""

REST: Final = 1.0
"""Seconds after the last one until its memory goes back to the system."""


class Bodies:
    """``most``: bytes of large bodies; one that is larger has it all for itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._trimming: asyncio.TimerHandle | None = None
        self.held = 0

    async def take(self, size: int) -> int:
        """Waits for room for ``size`` bytes, first come, first served. Returns what is to be given back.

        Raises TooManyRequestsError.
        """
        size = min(size, self._most)
        if self._waiting or self.held + size > self._most:
            await self._wait(size)
        else:
            self.held += size
        return size

    async def _wait(self, size: int) -> None:
        if len(self._waiting) >= MOST_WAITING:
            raise TooManyRequestsError(self._full(), 1)
        room = asyncio.get_running_loop().create_future()
        place = (size, room)
        self._waiting.append(place)
        try:
            await asyncio.wait_for(asyncio.shield(room), PATIENCE)
        except BaseException as error:
            if room.done():  # it was given the room just now
                self.give_back(size)
            else:
                self._waiting.remove(place)
                self._give()  # perhaps the next one is smaller
            if isinstance(error, TimeoutError):
                raise TooManyRequestsError(self._full(), 1) from None
            raise

    def _full(self) -> str:
        return (
            f"the server reads {self.held} bytes of large requests, at most {self._most} "
            f"(--max-bodies-bytes): requests of up to {SMALL} bytes are taken"
        )

    def give_back(self, size: int) -> None:
        """What ``take`` returned; the next ones may have it."""
        self.held -= size
        self._give()
        if size and not self.held and self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(REST, self._trim)

    def _trim(self) -> None:
        """What was read and understood is gone, but C's allocator keeps its memory."""
        self._trimming = None
        if not self.held:
            asyncio.get_running_loop().run_in_executor(None, give_back)

    def _give(self) -> None:
        while self._waiting and self.held + self._waiting[0][0] <= self._most:
            size, room = self._waiting.popleft()
            self.held += size
            room.set_result(None)
