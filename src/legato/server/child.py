"""Child: one engine process and the socket to it, driven by callbacks of the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from legato.messages import Command, Event, Stop
from legato.server.spawning import Spawned
from legato.wire import Wire


class Child:
    """``on_event`` is called with each of the process's events, ``on_death`` once, at once, when it
    has ended (also after ``stop``)."""

    def __init__(
        self, spawned: Spawned, on_event: Callable[[Event], None], on_death: Callable[[Child], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_event, self._on_death = on_event, on_death
        self._process = spawned.process
        self._wire: Wire[Event] = Wire(spawned.socket, Event)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._reason = ""  # for which it was killed from here
        self.has_ended = asyncio.Event()
        self._loop.add_reader(self._wire, self._receive)
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def obituary(self) -> str:
        """How it ended."""
        code = self._process.returncode
        if self._reason:
            return f"the engine process was killed, because it {self._reason}"
        if code is None:
            return "the engine process is running"
        if code >= 0:
            return f"the engine process ended with exit code {code}"
        return f"the engine process was killed by {signal.Signals(-code).name}"

    @property
    def was_killed(self) -> bool:
        """By somebody else, for reasons that we do not know."""
        return self._process.returncode == -signal.SIGKILL and not self._reason

    def send(self, command: Command) -> None:
        """Never waits. What is sent to a process that has ended is lost, and its death is told soon, if it
        was not yet."""
        if not self.has_ended.is_set():
            with suppress(ConnectionError):
                if not self._wire.send(command):
                    self._loop.add_writer(self._wire, self._flush)

    def _flush(self) -> None:
        try:
            is_done = self._wire.flush()
        except ConnectionError:
            is_done = True
        if is_done:
            self._loop.remove_writer(self._wire)

    async def stop(self, seconds: float) -> None:
        """Asks it to end, then makes it after so many."""
        if not self.has_ended.is_set():
            try:
                self.send(Stop())
                await asyncio.wait_for(self.has_ended.wait(), seconds)
            except TimeoutError:
                self.kill()
                await self.has_ended.wait()

    def kill(self, reason: str = "") -> None:
        """``reason``: what it did, for the obituary."""
        if not self.has_ended.is_set():
            self._reason = reason
            self._process.kill()

    def listen(self) -> None:
        """Calls ``on_event`` with what has arrived already."""
        self._receive()

    def _receive(self) -> None:
        try:
            while self._wire.has_message():
                self._on_event(self._wire.receive())
        except ConnectionError:
            self._loop.remove_reader(self._wire)  # nothing more will come: it ends

    def _ended(self) -> None:
        self._receive()  # its last words
        for ending in (self._wire, self._pidfd):
            self._loop.remove_reader(ending)
        self._loop.remove_writer(self._wire)
        os.close(self._pidfd)
        self._process.wait()
        self._wire.close()
        self.has_ended.set()
        self._on_death(self)
