"""Who takes in nothing is let go, also while his connection ends; who reads slowly is not."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest
import uvloop

from legato.server.stalls import Connection, let_go_of_stalled

SECONDS = 0.5


class Writer(asyncio.Protocol):
    """Sends more than any buffer of the system takes."""

    open: set[Connection]
    closes: bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self.transport = transport
        self.open.add(self)
        transport.write(bytes(50_000_000))
        if self.closes:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_who_is_let_go(reads: bool, closes: bool) -> None:
    writer = type("OneWriter", (Writer,), {"open": set(), "closes": closes})

    async def connect() -> bool:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(writer, "127.0.0.1", 0)
        watching = asyncio.create_task(let_go_of_stalled(writer.open, SECONDS))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, server.sockets[0].getsockname())
            for _ in range(40):
                await asyncio.sleep(SECONDS / 10)
                if reads:
                    assert await asyncio.wait_for(loop.sock_recv(client, 65536), 5)
            stays = bool(writer.open)
            assert not watching.done()
        watching.cancel()
        server.close()
        return stays

    assert uvloop.run(connect()) == reads
