"""Streams that outlive their connection: events with ids, kept for a client that comes back.

The answer grows whether somebody reads or not, and its events wait in bounded buffers. When nobody
has read for the stream's window, what still grows is cancelled, and what is kept is forgotten. Where
there are several API keys, a stream belongs to the one that began it: with another one, it does not exist.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from legato.errors import RequestError
from legato.server.asker import owner
from legato.server.dialect import OPENAI, Dialect
from legato.server.errors import StreamNotFoundError, TooManyRequestsError
from legato.server.sse import EventStream

MAX_WINDOW = 600.0
"""Seconds; most that a request may ask for."""
MOST_STREAMS = 1000
MAX_STREAM_BYTES = 8_000_000
MAX_BYTES = 64_000_000
"""Of all streams together; those that are complete, and not being read, make room, the oldest first."""


class KeptStream:
    """``window``: seconds without a reader after which it is given up; ``outlives``: not before it is
    complete."""

    def __init__(
        self,
        store: KeptStreams,
        name: str,
        events: AsyncGenerator[bytes, None],
        window: float,
        dialect: Dialect,
        *,
        outlives: bool,
    ) -> None:
        self.name, self.dialect, self.owner = name, dialect, owner()
        self.is_complete = False
        self.bytes = 0
        self.readers = 0
        self._store, self._window, self._outlives = store, window, outlives
        self._frames: deque[bytes] = deque()
        self._first = 0  # number of the first of them
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._grow(events))

    async def _grow(self, events: AsyncGenerator[bytes, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._keep(event)
        except Exception as error:
            self._error = error
        finally:
            self.is_complete = True
            self._notify()
            self._watch()

    def _keep(self, event: bytes) -> None:
        """Each frame of ``event`` gets its number; JSON has no line breaks, so a blank line ends one."""
        for frame in event.split(b"\n\n"):
            if frame:
                numbered = b"id: %d\n%s\n\n" % (self._first + len(self._frames), frame)
                self._frames.append(numbered)
                self._count(len(numbered))
        while self.bytes > MAX_STREAM_BYTES:
            self._first += 1
            self._count(-len(self._frames.popleft()))
        self._notify()

    def _count(self, size: int) -> None:
        self.bytes += size
        self._store.count(size)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """The frames behind number ``after``, then those that come. Raises what ended the answer,
        StreamNotFoundError when the next frame is no longer kept."""
        self.readers += 1
        self._watch()
        number = after + 1
        try:
            while True:
                if number < self._first:
                    raise StreamNotFoundError(
                        f"event {number} of stream {self.name!r} is no longer kept: the first that is "
                        f"has number {self._first}",
                        "Last-Event-ID",
                    )
                end = self._first + len(self._frames)
                if number < end:
                    frames = [self._frames[i - self._first] for i in range(number, end)]
                    number = end
                    yield b"".join(frames)
                elif self.is_complete:
                    if self._error is not None:
                        raise self._error
                    return
                else:
                    await self._changed.wait()
        finally:
            self.readers -= 1
            self._watch()

    def _watch(self) -> None:
        """The time runs while nobody reads."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.readers and (self.is_complete or not self._outlives):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._window, self._store.drop, self)

    def when_ended(self, work: Callable[[], None]) -> None:
        self._task.add_done_callback(lambda _: work())

    def cancel(self) -> None:
        """Nothing more will grow."""
        self._task.cancel()

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._count(-self.bytes)
        self._frames.clear()
        self.cancel()

    async def ended(self) -> None:
        await asyncio.wait((self._task,))


class KeptStreams:
    """By the id of their answer, and whose it is. ``most``: so many, as long as somebody may come back."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._kept: dict[tuple[str, str], KeptStream] = {}
        self._most = most
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def open(
        self,
        name: str,
        events: AsyncGenerator[bytes, None],
        window: float,
        dialect: Dialect = OPENAI,
        *,
        outlives: bool = False,
    ) -> KeptStream:
        """Begins to read ``events``. Raises RequestError while a stream of that name grows,
        TooManyRequestsError when there are too many, and none that is complete can go."""
        earlier = self._kept.get((owner(), name))
        if earlier is not None:
            if not earlier.is_complete:
                raise RequestError(f"request id {name!r} is in use", "request_id")
            self.drop(earlier)
        self._make_room()
        stream = KeptStream(self, name, events, window, dialect, outlives=outlives)
        self._kept[stream.owner, name] = stream
        return stream

    def _make_room(self) -> None:
        """For one more."""
        if len(self._kept) < self._most:
            return
        if idle := self._idle():
            self.drop(idle[0])
        else:
            raise TooManyRequestsError(
                f"{self._most} streams are kept for clients that may come back, and all still grow "
                "or are read: ask without resume_window and background, or later",
                1,
            )

    def _idle(self) -> list[KeptStream]:
        """Those that can go, the oldest first."""
        return [one for one in self._kept.values() if one.is_complete and not one.readers]

    def get(self, name: str) -> KeptStream:
        """Raises StreamNotFoundError."""
        stream = self._kept.get((owner(), name))
        if stream is None:
            raise StreamNotFoundError(f"no stream {name!r} is kept", "id")
        return stream

    def drop(self, stream: KeptStream) -> None:
        if self._kept.get((stream.owner, stream.name)) is stream:
            del self._kept[stream.owner, stream.name]
            stream.forget()

    def forget(self, name: str) -> None:
        """Drops the stream of that name, if there is one."""
        stream = self._kept.get((owner(), name))
        if stream is not None:
            self.drop(stream)

    def count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_BYTES:
            for stream in self._idle():
                self.drop(stream)
                if self._bytes <= MAX_BYTES:
                    return


def event_stream(
    streams: KeptStreams,
    name: str,
    events: AsyncGenerator[bytes, None],
    window: float,
    dialect: Dialect = OPENAI,
) -> EventStream:
    """The response that streams ``events``; with a window, one that can be resumed."""
    if not window:
        return EventStream(events, dialect)
    return resumed(streams.open(name, events, window, dialect))


def resumed(stream: KeptStream, after: int = -1) -> EventStream:
    response = EventStream(stream.read(after), stream.dialect)
    response.headers["x-stream-id"] = stream.name
    return response


def number_of(text: str, field: str) -> int:
    """A number as a client writes it into a header or a query. Raises RequestError."""
    if not text.isdecimal() or len(text) > 18:
        raise RequestError(f"{field} must be a whole number, got {text[:40]!r}", field)
    return int(text)
