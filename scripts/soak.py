"""A server under everything at once, for as long as asked: ``python scripts/soak.py --minutes 60``.

First a storm: connections that come and go at random moments (``--connections``). Then, all at once:
streams that are compared with what they said in peace, connections that come and go, clients that
never read, requests that are refused, engines that are killed. After each nothing may be left: no
choice, block, file, thread or task; memory may not have grown. An engine without work checks its
blocks, and ends if they do not balance, which is counted. Ends with 1 and says what was wrong.
It may be stopped for minutes, with its server and engine (SIGSTOP, SIGCONT): that time is added.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
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
LOOK_EVERY = 60.0  # seconds between two lines that say how it goes
STOPPED = 5.0  # a task that wakes up so many seconds late was stopped
MOST_PROBLEMS = 20
TRIES = 20
KINDS = 20  # of streams
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
REFUSED = {
    "prompt": "word " * 200_000,
    "stop": ["x"] * 100_000,
    "top_k": 10**30,
    "metadata": json.loads("[" * 200 + "]" * 200),
    "grammar": "root ::= other",
}
Grown = dict[str, int]  # process -> bytes
Said = list[tuple[int, str]]


class Soak:
    """``problems``: what went wrong; it goes on all the same, since more may."""

    def __init__(self, server: RunningServer, seconds: float, *, kill: bool) -> None:
        self.server, self.kill, self.seconds = server, kill, seconds
        self.end = 0.0
        self.random = random.Random(0)
        self.counts = {"streams": 0, "connections": 0, "never read": 0, "refused": 0, "kills": 0}
        self.expected: dict[int, Said] = {}
        self.problems: list[str] = []
        self.paused = 0.0  # seconds in which this process was stopped

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end and len(self.problems) < MOST_PROBLEMS

    async def peace(self) -> None:
        """What each stream says when nothing else happens."""
        async with client(self.server) as http:
            for number in range(KINDS):
                self.expected[number] = await self.said(http, number)
            await self.refused(http)

    async def streams(self) -> None:
        """Each is what it was in peace."""
        async with client(self.server) as http:
            while self.goes_on:
                number = self.random.randrange(KINDS)
                try:
                    found = await self.said(http, number)
                except (AssertionError, httpx.HTTPError) as error:
                    self.wrong(f"stream {number} ended with {error!r}")
                    continue
                self.counts["streams"] += 1
                if found != self.expected[number]:
                    self.wrong(f"stream {number}: {found}, in peace {self.expected[number]}")

    async def said(self, http: httpx.AsyncClient, number: int) -> Said:
        """Sampled and greedy, several choices, log-probabilities, a schema."""
        body = {"prompt": f"{number}. A story:", "max_tokens": 30 + number, "seed": number}
        extra = ({}, {"temperature": 0}, {"n": 2}, {"logprobs": 2}, {"guided_json": SCHEMA})
        _, text = await tell(http, body | extra[number % len(extra)] | {"user": "soak"})
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

    async def nonsense(self) -> None:
        async with client(self.server) as http:
            while self.goes_on:
                await asyncio.sleep(self.random.uniform(1, 10))
                await self.refused(http)

    async def refused(self, http: httpx.AsyncClient) -> None:
        """Each in its way, and by name. The grammar is another one each time: outcomes are remembered."""
        first = self.random.randrange(10**6)
        explosive = {"patternProperties": {f"^{first + i}": {} for i in range(900)}}
        for field, value in {**REFUSED, "guided_json": explosive}.items():
            try:
                reply = await http.post("/v1/completions", json={"prompt": "a"} | {field: value})
            except httpx.HTTPError as error:
                self.wrong(f"{field} ended with {error!r}")
                continue
            self.counts["refused"] += 1
            if reply.status_code != 400 or reply.json()["error"]["param"] != field:
                self.wrong(f"{field} was answered: {reply.text[:200]}")

    async def kills(self) -> None:
        """Of engines that serve; one in ten of the next while it loads, too."""
        while self.kill and self.goes_on:
            await asyncio.to_thread(ready, self.server)
            await asyncio.sleep(self.random.uniform(3, 30))
            self.kill_one()
            if self.random.random() < 0.1:
                await asyncio.sleep(self.random.random())
                self.kill_one()

    def kill_one(self) -> None:
        with suppress(AssertionError, OSError):  # there is none just now
            os.kill(engine_pid(self.server), signal.SIGKILL)
            self.counts["kills"] += 1

    async def clock(self) -> None:
        """Tells how it goes. Time in which everything was stopped (SIGSTOP) does not count."""
        next_look, last = time.monotonic() + LOOK_EVERY, time.monotonic()
        while self.goes_on:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            if now - last > STOPPED:
                self.paused += now - last
                self.end += now - last
            last = now
            if now > next_look:
                next_look = now + LOOK_EVERY
                await self.tell()

    async def tell(self) -> None:
        with suppress(AssertionError, OSError, httpx.HTTPError):  # no engine just now
            sizes = await asyncio.to_thread(memory, self.server)
            left = f"{max(self.end - time.monotonic(), 0) / 60:.1f} minutes left"
            paused = f", stopped for {self.paused:.0f} s" if self.paused else ""
            print(f"{left}{paused}; {self.counts}; {shown(sizes)}", flush=True)

    def wrong(self, problem: str) -> None:
        print(problem, flush=True)
        self.problems.append(problem)

    async def run(self) -> Grown:
        """Returns the processes' memory after the warm-up."""
        self.end = time.monotonic() + self.seconds
        work = [self.streams() for _ in range(8)]
        more = (self.connections(), self.slow(), self.nonsense(), self.kills(), self.clock())
        everything = asyncio.gather(*(asyncio.create_task(one) for one in (*work, *more)))
        warm_up = asyncio.create_task(asyncio.sleep(min(WARM_UP, self.seconds / 5)))
        await asyncio.wait((warm_up, everything), return_when=asyncio.FIRST_COMPLETED)
        warm = await asyncio.to_thread(least_memory, self.server)
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
    server.patience = 600  # everything may be stopped for minutes
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

    def is_clean() -> bool:
        try:
            return not left()
        except AssertionError:  # an engine was killed just now, and the server has not heard of it
            return False

    try:
        settled(is_clean, 30)
    except AssertionError as error:
        return [str(error)]
    return []


def mixed(server: RunningServer, soak: Soak) -> list[str]:
    """Returns what is wrong."""
    asyncio.run(soak.peace())
    before = state(server)
    warm = asyncio.run(soak.run())
    ready(server)
    changing = {"engine", "engine files", "engine threads"}  # it may be another one
    problems = soak.problems + remains(lambda: left_over(before, state(server)).keys() - changing)
    at_rest(server)
    grown = {name: size - warm[name] for name, size in memory_when_ready(server).items()}
    print(f"{soak.counts}; since the warm-up grown by {shown(grown)}", flush=True)
    restarts = round(server.metric("engine_restarts_total"))
    if restarts:
        grown["engine"] -= 64 << 20  # the one of the warm-up may have been new, with an empty pool
    problems += too_much(grown)
    if restarts > soak.counts["kills"]:
        problems.append(f"{restarts} engines ended, {soak.counts['kills']} were killed")
    print(f"{len(problems)} problems", flush=True)
    return problems


def ready(server: RunningServer) -> None:
    """There is an engine."""
    settled(lambda: server.http.get("/ready").status_code == 200)


def memory_when_ready(server: RunningServer) -> Grown:
    """An engine may be killed at any moment, also at this one."""
    for _ in range(TRIES):
        ready(server)
        with suppress(AssertionError, OSError):
            return memory(server)
    raise AssertionError("no engine lives long enough to be measured")


def least_memory(server: RunningServer) -> Grown:
    """Of ten seconds: large requests take much for a moment."""
    sizes = []
    for _ in range(10):
        sizes.append(memory_when_ready(server))
        time.sleep(1)
    return {name: min(size[name] for size in sizes) for name in sizes[0]}


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
