"""A server under everything at once, for as long as asked: ``python scripts/soak.py --minutes 60``.

Streams that are compared with what they said in peace, connections that come and go, clients that
never read, engines that are killed. At the end nothing may be left: no choice, block, file or thread;
memory may not have grown since the first minute. Ends with 1 and says what was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "server"))

from running_server import RunningServer, engine_pid, start_server
from storms import client, come_and_go, left_over, memory, never_readers, settled, state, tell

MODEL = "smollm2"
WARM_UP = 60.0  # seconds, of the whole at most a fifth
GROWTH = 40 << 20  # bytes that either process may have grown by


class Soak:
    def __init__(self, server: RunningServer, seconds: float, *, kill: bool) -> None:
        self.server, self.kill = server, kill
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.random = random.Random(0)
        self.counts = {"streams": 0, "connections": 0, "never read": 0, "kills": 0}
        self.expected: dict[int, str] = {}

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

    async def said(self, http: object, number: int) -> str:
        body = {"prompt": f"{number}. A story:", "max_tokens": 30 + number, "seed": number}
        _, text = await tell(http, body)  # type: ignore[arg-type]
        return "".join(line.partition('"choices"')[2] for line in text.split("\n\n"))

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

    async def run(self) -> dict[str, int]:
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
        await asyncio.wait(
            (asyncio.ensure_future(asyncio.sleep(min(WARM_UP, (self.end - self.start) / 5))),)
        )
        warm = memory(self.server)
        await everything
        return warm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--no-kills", action="store_true", help="leave the engine alone")
    asked = parser.parse_args()
    server = start_server(MODEL, "--kv-cache-memory", "300MB", "--max-model-len", "2048")
    try:
        return report(server, Soak(server, asked.minutes * 60, kill=not asked.no_kills))
    finally:
        server.process.terminate()
        server.process.wait(60)


def report(server: RunningServer, soak: Soak) -> int:
    before = state(server)
    warm = asyncio.run(soak.run())
    changing = {"engine", "engine files", "engine threads"}  # it may be another one
    settled(lambda: not left_over(before, state(server)).keys() - changing)
    time.sleep(1.5)  # an engine without work checks its blocks, and would end
    grown = {name: size - warm[name] for name, size in memory(server).items()}
    print(
        f"{soak.counts}; since the warm-up grown by { ({n: s >> 10 for n, s in grown.items()}) } KB"
    )
    restarts = round(server.metric("engine_restarts_total"))
    if restarts > soak.counts["kills"]:
        print(f"{restarts} engines ended, {soak.counts['kills']} were killed")
        return 1
    leaks = [name for name, size in grown.items() if size > GROWTH]
    if leaks:
        print(f"memory has grown: {leaks}")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
