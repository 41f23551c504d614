"""One client's connection, with an end for everything that a client may never end.

A request has to be here ``receive_timeout`` seconds after its first byte (the first one after the
connection was made), and its head may have ``MAX_HEAD`` bytes. What is no HTTP is told so in the shape
of all other errors. A request that would rather go on in another protocol is served in this one.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import httptools
import msgspec
from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from legato.server.errors import shape

MAX_HEAD = 65_536
"""Bytes of a request's head, or anywhere without a byte of the body among them."""

AROUND = len(b": \r\n")

MAX_PIPELINED = 16
"""Requests that wait behind the one that is answered before no more are read: who reads notices an end."""

STOPPED = 2.0
"""Seconds: a timer that rings so much too late says that this process was stopped, not who was slow."""


def connections(receive_timeout: float) -> type[HttpToolsProtocol]:
    """The class that uvicorn makes one of for each connection."""
    return type("Connection", (Connection,), {"receive_timeout": receive_timeout})


class Connection(HttpToolsProtocol):
    receive_timeout: ClassVar[float]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when it should ring
        self._without_body = 0  # bytes since the last of a body, or since a head ended
        self._is_refused = False  # what came; what still comes is not read
        self._answering: RequestResponseCycle | None = None  # ``cycle`` is the last that came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        super().connection_lost(exc)
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if cycle.scope["http_version"] == "1.0":
            app = unchunked(cycle, app)
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._expect()
        self._without_body += len(data)
        self._unset_keepalive_if_required()
        try:
            self._read(memoryview(data))
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
        if self._without_body > MAX_HEAD:
            self._refuse_head()

    def _read(self, data: memoryview) -> None:
        """A parser ends with the head of a request to upgrade, and takes its body for the other protocol's:
        another one reads the head without that, and goes on."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._asks_for_upgrade:
                    return
                head = self._head_without_upgrade()
                data = data[upgrade.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            self.parser.feed_data(head)

    @property
    def _asks_for_upgrade(self) -> bool:
        """CONNECT does not ask: it can be nothing else."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        # Counted anew: all of it may have come in one piece, with others before and behind.
        lines = sum(len(name) + len(value) + AROUND for name, value in self.headers)
        if len(self.url) + lines > MAX_HEAD:
            self._refuse_head()
            raise httptools.HttpParserError  # no more of it is read
        self._without_body = 0
        if not self._asks_for_upgrade:
            super().on_headers_complete()
            if 0 < len(self.pipeline) <= MAX_PIPELINED:
                self.flow.resume_reading()  # which uvicorn pauses for the first

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._without_body = 0

    def on_message_complete(self) -> None:
        if self._asks_for_upgrade:
            return
        super().on_message_complete()
        self._without_body = 0
        self._expect_no_more()

    def _expect(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._due = self.loop.time() + self.receive_timeout
            self._timer = self.loop.call_later(self.receive_timeout, self._on_late)

    def _expect_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        was_stopped = self.loop.time() - self._due > STOPPED
        is_awaited = self.flow.read_paused or (is_answering and not cycle.more_body)
        if was_stopped or is_awaited or self.pipeline:
            self._expect()  # what is late is not the client's, or is its next request
        elif is_answering and cycle.response_started:
            self.transport.close()
        else:
            self._refuse(408, f"no whole request came within {self.receive_timeout:g} seconds")

    def _refuse_head(self) -> None:
        self._refuse(431, f"the head of the request is larger than {MAX_HEAD} bytes")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not valid HTTP/1.1")

    def _refuse(self, status: int, message: str) -> None:
        """What is wrong behind a request that is answered ends the connection when it is: whatever was
        said before would be in the midst of that answer."""
        if self._is_refused:
            return
        self._is_refused = True
        answering = self._answering
        if answering and not answering.response_complete and not answering.more_body:
            answering.keep_alive = False
            return
        kind = "timeout_error" if status == 408 else "invalid_request_error"
        body = msgspec.json.encode(shape(message, kind))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()


def unchunked(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """``app`` for HTTP/1.0, which knows no chunks: what has no length ends with the connection."""
    cycle.chunked_encoding = False

    async def unchunked_app(
        scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        async def send_whole(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body":
                cycle.expected_content_length = len(message["body"])
            await send(message)

        await app(scope, receive, send_whole)

    return unchunked_app
