"""A streaming HTTP client that costs next to nothing while it measures.

Client and server share the processors, so the hot path only keeps the bytes and the time of their
arrival; headers, chunks and events are taken apart after the run.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from bisect import bisect_left
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

from legato.errors import RequestError


@dataclass(frozen=True)
class Endpoint:
    """Where an OpenAI-compatible server listens; ``base_url`` ends before ``/v1``."""

    base_url: str
    api_key: str | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise RequestError(f"{self.base_url!r} is not an http or https URL", "base_url")

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        return urlsplit(self.base_url).port or (443 if self.tls else 80)

    @property
    def tls(self) -> ssl.SSLContext | None:
        secure = urlsplit(self.base_url).scheme == "https"
        return ssl.create_default_context() if secure else None

    def message(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """A whole HTTP/1.1 request; the server closes the connection after its answer."""
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        root = urlsplit(self.base_url).path.rstrip("/").removesuffix("/v1")
        lines = [
            f"{method} {root}{path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
        ]
        if self.api_key:
            lines.append(f"Authorization: Bearer {self.api_key}")
        return "\r\n".join([*lines, "", ""]).encode() + content


@dataclass
class Exchange:
    """A request's answer as it arrived. Times are ``perf_counter`` seconds."""

    started: float = 0.0
    ended: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    def answer(self) -> tuple[int, list[tuple[float, bytes]]]:
        """Status, and the body's pieces with the chunks' framing removed."""
        raw = b"".join(piece for _, piece in self.pieces)
        head, found, _ = raw.partition(b"\r\n\r\n")
        if not found:
            return 0, []
        status = int(head.split(b" ", 2)[1])
        start = len(head) + len(found)
        if b"transfer-encoding: chunked" not in head.lower():
            return status, [(self._arrival(len(raw)), raw[start:])]
        body = []
        while (line_end := raw.find(b"\r\n", start)) >= 0:
            length = int(raw[start:line_end].split(b";")[0], 16)
            start = line_end + 2 + length
            if length == 0 or start > len(raw):
                break
            body.append((self._arrival(start), raw[line_end + 2 : start]))
            start += 2
        return status, body

    def events(self) -> list[tuple[float, bytes]]:
        """When each server-sent event had arrived, and its data. Raises RequestError on an error."""
        status, chunks = self.answer()
        if status != 200:
            content = b"".join(chunk for _, chunk in chunks).decode(errors="replace")
            raise RequestError(f"the server answered {status or 'nothing'}: {content[:300]}")
        events, rest = [], b""
        for arrival, chunk in chunks:
            *complete, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
            events += [(arrival, block[5:].strip()) for block in complete if block[:5] == b"data:"]
        return events

    def _arrival(self, end: int) -> float:
        """When the first ``end`` bytes had arrived."""
        if not hasattr(self, "_ends"):
            total, self._ends = 0, list[int]()
            for _, piece in self.pieces:
                total += len(piece)
                self._ends.append(total)
        return self.pieces[bisect_left(self._ends, end)][0]


class _Connection(asyncio.Protocol):
    """One connection carries one request."""

    def __init__(self, message: bytes, exchange: Exchange) -> None:
        self._message = message
        self._exchange = exchange
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._message)

    def data_received(self, data: bytes) -> None:
        self._exchange.pieces.append((perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def exchange(endpoint: Endpoint, message: bytes) -> Exchange:
    """Sends a request and reads until the server closes. Raises RequestError if nobody listens."""
    result = Exchange(started=perf_counter())
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(
            lambda: _Connection(message, result), endpoint.host, endpoint.port, ssl=endpoint.tls
        )
    except OSError as error:
        raise RequestError(f"no server at {endpoint.base_url}: {error.strerror or error}") from None
    await connection.closed
    result.ended = perf_counter()
    return result


async def fetch_json(
    endpoint: Endpoint, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """Status and decoded body (None if it is not JSON) of a request that does not stream."""
    status, chunks = (await exchange(endpoint, endpoint.message(method, path, body))).answer()
    try:
        return status, json.loads(b"".join(chunk for _, chunk in chunks))
    except ValueError:
        return status, None
