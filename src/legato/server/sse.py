"""Server-sent events, and the watch for clients that hang up.

A stream's cost is paid once a token for every client, so chunks are joined from bytes that were
formatted once a request: only the text itself is encoded anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from legato.server.dialect import OPENAI, Dialect

_encode = msgspec.json.Encoder().encode
# Unicode's ends of lines, at which some clients cut a stream that is told in lines (httpx's ``iter_lines``).
_ENDS_OF_LINES = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

Result = TypeVar("Result")


def encode(data: Any) -> bytes:
    """JSON in one line, whatever takes which character for the end of one."""
    said = _encode(data)
    if said.isascii():
        return said
    for end, escape in _ENDS_OF_LINES:
        said = said.replace(end, escape)
    return said


def named_event(name: str, data: Any) -> bytes:
    """An event with a name, which the clients of Anthropic and of OpenAI's responses go by."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(data))


async def hang_up(receive: Receive) -> None:
    """Returns when the client closes the connection. The body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of ``work``, which is cancelled at once if the client hangs up (ClientDisconnect)."""
    return await _race(work, asyncio.ensure_future(hang_up(request.receive)))


async def _race(work: Awaitable[Result], gone: asyncio.Future[None]) -> Result:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


class EventStream(Response):
    """Sends the bytes that ``events`` yields.

    The status line waits for the first event: an error before it has a status of its own, one
    after it is an event in the dialect's error shape that ends the stream without [DONE].
    """

    def __init__(self, events: AsyncGenerator[bytes, None], dialect: Dialect = OPENAI) -> None:
        super().__init__(headers=HEADERS, media_type=dialect.media_type)
        del self.headers["content-length"]
        self.events = events
        self.dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(hang_up(receive))
        with suppress(ClientDisconnect):
            await _race(self._send(scope, receive, send), gone)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        async with aclosing(self.events) as events:
            try:
                async for event in events:
                    if not started:
                        started = True
                        await self._start(send)
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except Exception as error:
                if not started:
                    await self.dialect.response(error)(scope, receive, send)
                    return
                event = self.dialect.frame(self.dialect.describe(error)[1])
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
