"""Child: one engine process and the socket to it, driven by callbacks of the event loop."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress

import msgspec
import zmq

from legato.messages import Command, Event, Stop


class Child:
    """Starts a process. ``on_event`` is called with each of its events, ``on_death`` once, at once,
    when it has ended (also after ``stop``)."""

    def __init__(
        self, loader: str, on_event: Callable[[Event], None], on_death: Callable[[Child], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_event, self._on_death = on_event, on_death
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Event)
        self._directory = tempfile.mkdtemp(prefix="legato-")  # for this user only
        address = f"ipc://{self._directory}/engine"
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.bind(address)
        self._wakeup: int = self._socket.FD
        arguments = [address, loader, str(os.getpid())]
        command = [sys.executable, "-m", "legato.engine_process", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._reason = ""  # for which it was killed from here
        self.has_ended = asyncio.Event()
        self._loop.add_reader(self._wakeup, self._receive)
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
        """Never waits. Only after the first event: before that nobody is connected. What is sent to a
        process that has ended is lost, and its death is told soon, if it was not yet."""
        if self.has_ended.is_set():
            return
        with suppress(zmq.Again):  # nobody is connected any more: it has ended just now
            self._socket.send(self._encoder.encode(command), zmq.NOBLOCK)
        # The wakeup descriptor tells of changes only, and sending may have swallowed one.
        self._loop.call_soon(self._receive)

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
        while not self._socket.closed and int(self._socket.EVENTS) & zmq.POLLIN:
            frame = self._socket.recv(zmq.NOBLOCK)
            if self._directory:  # connected: the address has served
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = ""
            self._on_event(self._decoder.decode(frame))

    def _ended(self) -> None:
        self._receive()  # its last words
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._wakeup)
        os.close(self._pidfd)
        self._process.wait()
        self._socket.close(linger=0)
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
        self.has_ended.set()
        self._on_death(self)
