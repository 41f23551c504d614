"""Wire: one end of the pair of sockets between a server and its engine's process.

A message is written by the thread that has it and read by the thread that wants it. A messaging library's
threads in between would each have to be given a processor first, and while the engine computes on all of
them, that is a matter of milliseconds.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Any, Generic, TypeVar

import msgspec

Message = TypeVar("Message")

HEAD = 4  # bytes before a message: its length, little-endian
PIECE = 1 << 16  # bytes taken from the kernel at once


class Wire(Generic[Message]):
    """Sends anything that msgpack can spell, in order; receives what ``kind`` describes.

    Nothing waits for the other end but ``has_message``, and that no longer than it is told: what the kernel
    does not take is kept here, without a limit, since both ends always come back to read.
    ``has_message``, ``receive``, ``send`` and ``flush`` raise ConnectionError when the other end is gone and
    all that it sent has been received.
    """

    def __init__(self, end: socket.socket, kind: Any) -> None:
        end.setblocking(False)
        self._end = end
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(kind)
        self._received = bytearray()
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: Any) -> bool:
        """False: a part of it is kept until the kernel takes it, in ``flush``."""
        content = self._encoder.encode(message)
        self._unsent += len(content).to_bytes(HEAD, "little")
        self._unsent += content
        return self.flush()

    def flush(self) -> bool:
        """Whether nothing is left to send."""
        while self._unsent:
            try:
                del self._unsent[: self._end.send(self._unsent)]
            except BlockingIOError:
                return False
        return True

    def has_message(self, milliseconds: int | None = 0) -> bool:
        """Waits so long (None: for ever) until a whole message is here."""
        end = None if milliseconds is None else time.monotonic() + milliseconds / 1000
        while not self._is_whole():
            if self._read():
                continue
            left = None if end is None else end - time.monotonic()
            if milliseconds == 0 or (left is not None and left <= 0):
                return False
            self._wait(left)
        return True

    def receive(self) -> Message:
        """The next message; waits for it."""
        self.has_message(None)
        end = HEAD + self._length()
        message = self._decoder.decode(memoryview(self._received)[HEAD:end].tobytes())
        del self._received[:end]
        return message

    def close(self, seconds: float = 0.0) -> None:
        """Tries so long to deliver what was sent."""
        end = time.monotonic() + seconds
        try:
            while not self.flush() and (left := end - time.monotonic()) > 0:
                self._wait(left)
        except ConnectionError:
            pass  # nobody is left to receive it
        self._unsent.clear()
        self._end.close()

    def _length(self) -> int:
        return int.from_bytes(self._received[:HEAD], "little")

    def _is_whole(self) -> bool:
        return len(self._received) >= HEAD and len(self._received) >= HEAD + self._length()

    def _read(self) -> bool:
        """Takes what has arrived; False: nothing has."""
        try:
            piece = self._end.recv(PIECE)
        except BlockingIOError:
            return False
        if not piece:
            raise ConnectionResetError("the other end is closed")
        self._received += piece
        return True

    def _wait(self, seconds: float | None) -> None:
        """Until something arrives, or what is unsent can go on."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        poll.poll(None if seconds is None else seconds * 1000)
        self.flush()
