"""A server under everything at once, for as long as asked: ``python scripts/soak.py --minutes 60``.

First a storm: connections that come and go at random moments (``--connections``). Then, all at once:
streams that are compared with what they said in peace, connections that come and go, clients that
never read, engines that are killed. After each nothing may be left: no choice, block, file, thread or
task; memory may not have grown. An engine without work checks its blocks, and ends if they do not
balance, which is counted. Ends with 1 and says what was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "server"))

from running_server import RunningServer, engine_pid, start_server
from storms import (
    client,
    come_and_go,
    left_over,
    memory,
    never_readers,
    said,
    settled,
    state,
    tell,
)

MODEL = "smollm2"
WARM_UP = 60.0  # seconds, of the whole at most a fifth
GROWTH = 40 << 20  # bytes that either process may have grown by
POOL = "64MB"  # small, so that all of it is in use soon, and answers are preempted
AT_ONCE = 100  # connections of the storm
BLOCK_CHECK = 1.5  # seconds after which an engine without work has checked its blocks
Grown = dict[str, int]  # process -> bytes


class Soak:
    def __init__(self, server: RunningServer, seconds: float, *, kill: bool) -> None:
        self.server, self.kill = server, kill
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.random = random.Random(0)
        self.counts = {"streams": 0, "connections": 0, "never read": 0, "kills": 0}
        self.expected: dict[int, list[tuple[int, str]]] = {}

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    async def streams(self) -> None:
        """Each is what it was in peace."""
        async with client(self.server) as http:
            while self.goes_on:
                number = self.random.randrange(20)
                if await self.said(http, number) != self.expected[number]:
                    raise AssertionError(
                        f"stream {number} says something else than it said in peace"
                    )
                self.counts["streams"] += 1

    async def said(self, http: httpx.AsyncClient, number: int) -> list[tuple[int, str]]:
        body = {
            "prompt": f"{number}. A story:",
            "max_tokens": 30 + number,
            "seed": number,
            "user": "soak",
        }
        _, text = await tell(http, body)
        return said(text)

    async def connections(self) -> None:
        while self.goes_on:
            await come_and_go(self.server, 100, 50, self.random)
            self.counts["connections"] += 100

    async def slow(self) -> None:
        while self.goes_on:
            sockets = never_readers(self.server, 16, 100)
            await asyncio.sleep(self.random.uniform(2, 10))
            for made in sockets:
                made.close()
            self.counts["never read"] += 16

    async def kills(self) -> None:
        while self.kill and self.goes_on:
            await asyncio.sleep(self.random.uniform(5, 30))
            with suppress(AssertionError, ProcessLookupError):
                os.kill(engine_pid(self.server), signal.SIGKILL)
                self.counts["kills"] += 1

    async def run(self) -> Grown:
        """Returns the processes' memory after the warm-up."""
        async with client(self.server) as http:
            for number in range(20):
                self.expected[number] = await self.said(http, number)
        work = [self.streams() for _ in range(8)]
        tasks = [
            asyncio.create_task(one)
            for one in (*work, self.connections(), self.slow(), self.kills())
        ]
        everything = asyncio.gather(*tasks)
        warm_up = asyncio.create_task(asyncio.sleep(min(WARM_UP, (self.end - self.start) / 5)))
        await asyncio.wait((warm_up, everything), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(ready, self.server)
        warm = memory(self.server)
        await everything
        return warm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--connections", type=int, default=10_000, help="of the storm before")
    parser.add_argument("--no-kills", action="store_true", help="leave the engine alone")
    asked = parser.parse_args()
    flags = ("--kv-cache-memory", POOL, "--max-model-len", "2048", "--log-level", "error")
    server = start_server(MODEL, *flags)
    try:
        problems = storm(server, asked.connections) if asked.connections else []
        if asked.minutes:
            problems += mixed(server, Soak(server, asked.minutes * 60, kill=not asked.no_kills))
    finally:
        server.process.terminate()
        server.process.wait(60)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def storm(server: RunningServer, count: int) -> list[str]:
    """Returns what is wrong. In two halves: in the first, memory that is made once is made."""
    moments = random.Random(1)
    asyncio.run(come_and_go(server, 100, AT_ONCE, moments))
    at_rest(server)
    before, sizes, started = state(server), [memory(server)], time.monotonic()
    for _ in range(2):
        asyncio.run(come_and_go(server, count // 2, AT_ONCE, moments))
        settled(lambda: not left_over(before, state(server)))
        at_rest(server)
        sizes.append(memory(server))
    seconds = time.monotonic() - started
    first, second = (
        {name: after[name] - earlier[name] for name in after}
        for earlier, after in itertools.pairwise(sizes)
    )
    print(
        f"{count:,} connections that came and went in {seconds:.0f} s; grown in the first half by "
        f"{shown(first)}, in the second by {shown(second)}",
        flush=True,
    )
    problems = remains(lambda: left_over(before, state(server)))
    if server.metric("engine_restarts_total"):
        problems.append("an engine ended: its blocks did not balance, or it crashed")
    return problems + too_much(second)


def remains(left: Callable[[], object]) -> list[str]:
    """What is still there when everything has had its time; who asks has connections, too, for a moment."""
    try:
        settled(lambda: not left(), 30)
    except AssertionError as error:
        return [str(error)]
    return []


def mixed(server: RunningServer, soak: Soak) -> list[str]:
    """Returns what is wrong."""
    before = state(server)
    warm = asyncio.run(soak.run())
    ready(server)
    changing = {"engine", "engine files", "engine threads"}  # it may be another one
    problems = remains(lambda: left_over(before, state(server)).keys() - changing)
    at_rest(server)
    grown = {name: size - warm[name] for name, size in memory(server).items()}
    print(f"{soak.counts}; since the warm-up grown by {shown(grown)}", flush=True)
    restarts = round(server.metric("engine_restarts_total"))
    if restarts:
        grown["engine"] -= 64 << 20  # the one of the warm-up may have been new, with an empty pool
    problems += too_much(grown)
    if restarts > soak.counts["kills"]:
        problems.append(f"{restarts} engines ended, {soak.counts['kills']} were killed")
    return problems


def ready(server: RunningServer) -> None:
    """There is an engine."""
    settled(lambda: server.http.get("/ready").status_code == 200)


def at_rest(server: RunningServer) -> None:
    settled(
        lambda: not server.metric("num_requests_running") + server.metric("num_requests_waiting")
    )
    time.sleep(BLOCK_CHECK)


def shown(grown: Grown) -> str:
    return ", ".join(f"{name} {size >> 10:,} KB" for name, size in grown.items())


def too_much(grown: Grown) -> list[str]:
    return [f"memory of the {name} has grown" for name, size in grown.items() if size > GROWTH]


if __name__ == "__main__":
    sys.exit(main())
