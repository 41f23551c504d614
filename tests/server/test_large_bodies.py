"""Many large bodies at once: memory is bounded, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, start_server
from storms import client, resident

BODY = 4 << 20
ROOM = 8 << 20
BODIES = 40
MOST_GROWTH = 80 << 20
"""Bytes; forty such bodies alone are twice as many."""


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[RunningServer]:
    flags = ("--max-body-bytes", str(BODY + 1000), "--max-bodies-bytes", str(ROOM))
    started = start_server(str(model_path), *SETTINGS, *flags, "--served-model-name", "smollm2")
    yield started
    started.process.terminate()
    started.process.wait(20)


class Peak:
    """The most memory that a process had, in bytes."""

    def __init__(self, pid: int) -> None:
        self.before = self.bytes = resident(pid)
        self._pid, self._ends = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ends.wait(0.005):
            self.bytes = max(self.bytes, resident(self._pid))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


def body(size: int, **fields: Any) -> bytes:
    """A small question, and much that is nobody's business."""
    asked = {"prompt": "One, two,", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    return json.dumps({**asked, "metadata": {"x": "a" * size}, **fields}).encode()


async def in_parts(whole: bytes) -> AsyncIterator[bytes]:
    """Without a Content-Length."""
    for start in range(0, len(whole), 1 << 16):
        yield whole[start : start + (1 << 16)]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_many_at_once(server: RunningServer, *, is_chunked: bool) -> None:
    large = body(BODY)

    async def everything() -> tuple[list[httpx.Response], float]:
        async with client(server) as http:

            async def one() -> httpx.Response:
                content = in_parts(large) if is_chunked else large
                return await http.post("/v1/completions", content=content)

            async def small() -> float:
                slowest = 0.0
                while not sending.done():
                    started = time.monotonic()
                    reply = await http.post("/v1/completions", content=body(1000))
                    assert reply.status_code == 200
                    slowest = max(slowest, time.monotonic() - started)
                return slowest

            sending = asyncio.gather(*(one() for _ in range(BODIES)))
            slowest = await small()
            return await sending, slowest

    asyncio.run(_warm_up(server, large))
    with Peak(server.process.pid) as peak:
        replies, slowest = asyncio.run(everything())
    grown = (peak.bytes - peak.before) >> 20
    print(
        f"\n{BODIES} bodies of {BODY >> 20} MB at once, room for {ROOM >> 20}: the server grew by "
        f"{grown} MB; small requests beside took {slowest:.1f} s at most"
    )
    served = [reply for reply in replies if reply.status_code == 200]
    assert len(served) > 4 and len({one.json()["choices"][0]["text"] for one in served}) == 1
    for reply in replies:  # who waited for too long, on a busy machine
        assert reply.status_code == 200 or (
            reply.status_code == 429 and reply.headers["retry-after"] == "1"
        )
    assert peak.bytes - peak.before < MOST_GROWTH


async def _warm_up(server: RunningServer, large: bytes) -> None:
    async with client(server) as http:
        assert (await http.post("/v1/completions", content=large)).status_code == 200


def test_senders_that_never_end_hold_up_large_bodies_only(server: RunningServer) -> None:
    """Two say that they send all there is room for, and do not."""

    async def scenario() -> None:
        host, port = server.address
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n{" % BODY
        slow = [await asyncio.open_connection(host, port) for _ in range(2)]
        for _, writer in slow:
            writer.write(head)
        await asyncio.sleep(0.3)
        async with client(server) as http:
            waiting = asyncio.create_task(http.post("/v1/completions", content=body(100_000)))
            reply = await http.post("/v1/completions", content=body(1000))
            assert reply.status_code == 200
            await asyncio.sleep(0.5)
            assert not waiting.done()
            slow[0][1].close()
            assert (await waiting).status_code == 200
        slow[1][1].close()

    asyncio.run(scenario())
