"""Clients that take in nothing of what is sent to them are let go, those that read slowly are not.

The kernel's own timeout (``TCP_USER_TIMEOUT``) does not tell them apart: with a small window, what is
sent again and again in little pieces counts as unanswered although each piece is answered. What the
other end has acknowledged does (RFC 4898, ``ThruOctetsAcked``; Linux: ``tcpi_bytes_acked``).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple, Protocol

LOG = logging.getLogger(__name__)
LOOKS = 10
"""In this many looks, evenly over the time that a client has, nothing may have changed. Looks are counted,
not seconds: where this process was stopped, that is not the clients' fault."""
TCP_INFO = struct.Struct("=24xI92xQ16xI")
"""Of Linux's ``struct tcp_info``: segments without acknowledgement, bytes with one, bytes not sent yet."""
RESET = struct.pack("=ii", 1, 0)
"""SO_LINGER: what was not sent is thrown away when the connection is closed."""


class Connection(Protocol):
    """What uvicorn keeps of a client."""

    transport: asyncio.Transport


class _Taken(NamedTuple):
    num_bytes: int
    """Acknowledged since the connection was made."""
    looks: int
    """That have found this number."""


class Stalls:
    """What was seen of each client that something waits to be sent to."""

    def __init__(self) -> None:
        self._taken: dict[Connection, _Taken] = {}

    def look(self, connections: Iterable[Connection]) -> list[Connection]:
        """Those who have taken in nothing during the last `LOOKS` looks."""
        before, self._taken = self._taken, {}
        stalled = []
        for connection in connections:
            num_bytes = _acknowledged(connection)
            if num_bytes is None:
                continue
            seen = before.get(connection)
            looks = seen.looks + 1 if seen is not None and seen.num_bytes == num_bytes else 0
            self._taken[connection] = _Taken(num_bytes, looks)
            if looks >= LOOKS:
                stalled.append(connection)
        return stalled


async def let_go_of_stalled(connections: Iterable[Connection], seconds: float) -> None:
    """Runs until it is cancelled. ``connections`` changes meanwhile; a client has ``seconds`` > 0 to take
    in something of what is there for it."""
    stalls = Stalls()
    while True:
        await asyncio.sleep(seconds / LOOKS)
        for connection in stalls.look(tuple(connections)):
            peer = connection.transport.get_extra_info("peername")
            LOG.info("%s took in nothing for %g seconds: its connection is closed", peer, seconds)
            made = connection.transport.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.transport.abort()


def _acknowledged(connection: Connection) -> int | None:
    """Bytes that this client's end has acknowledged; None when nothing waits for it, or it is gone."""
    made = connection.transport.get_extra_info("socket")
    try:
        told = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    except OSError:
        return None
    unacknowledged, acknowledged, unsent = TCP_INFO.unpack(told)
    return acknowledged if unacknowledged or unsent else None
