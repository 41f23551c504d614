"""More clients than can be served, slow ones, and such as leave: the real server, the real model."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, start_server
from storms import client, come_and_go, left_over, memory, never_readers, said, settled, state, tell

LONG = {"prompt": "One,", "max_tokens": 1500, "ignore_eos": True}


def running(server: RunningServer) -> float:
    return server.metric("num_requests_running") + server.metric("num_requests_waiting")


@pytest.fixture(scope="module")
def wide(model_path: Path) -> Iterator[RunningServer]:
    """A server with the default limits."""
    started = start_server(str(model_path), *SETTINGS, "--served-model-name", "smollm2")
    yield started
    started.process.terminate()
    started.process.wait(20)


@pytest.fixture(scope="module")
def narrow(model_path: Path) -> Iterator[RunningServer]:
    flags = ("--max-num-seqs", "2", "--max-queue", "8", "--max-requests-per-client", "4")
    keys = ("--api-key", "one,two,three", "--requests-per-minute", "60")
    started = start_server(str(model_path), *SETTINGS, *flags, *keys)
    yield started
    started.process.terminate()
    started.process.wait(20)


def ask(server: RunningServer, key: str, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    body = {"prompt": "One,", "max_tokens": 1, **fields}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_the_request_and_frees_its_blocks(
    server: RunningServer, *, stream: bool
) -> None:
    started = time.monotonic()
    body = {**LONG, "timeout": 0.5, "stream": stream}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert 0.4 < time.monotonic() - started < 20
    assert '"code":"timeout"' in reply.text
    if not stream:
        assert reply.status_code == 408 and reply.headers["x-should-retry"] == "false"
    settled(lambda: running(server) == 0)
    assert server.metric("kv_cache_usage_perc") == 0
    for wrong in (0, -1, 1e9):
        refused = httpx.post(f"{server.url}/v1/completions", json={**LONG, "timeout": wrong})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "timeout"


def test_too_much_is_a_429(narrow: RunningServer) -> None:
    with ExitStack() as streams:
        headers = {"authorization": "Bearer one"}
        body = {**LONG, "n": 2, "stream": True}
        opened = httpx.stream(
            "POST", f"{narrow.url}/v1/completions", json=body, headers=headers, timeout=60
        )
        lines = streams.enter_context(
            opened
        ).iter_lines()  # closes the connection when it is forgotten
        assert next(lines)
        refused = ask(narrow, "one", n=3)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "more than 4 answers at once (2 are open)" in refused.json()["error"]["message"]
        assert ask(narrow, "two", n=3).status_code == 200  # others are not held to what "one" has
        assert ask(narrow, "four").status_code == 401
    settled(lambda: running(narrow) == 0)
    assert ask(narrow, "one").status_code == 200


def test_the_queue_is_bounded_and_nobody_locks_others_out(narrow: RunningServer) -> None:
    async def scenario() -> None:
        async with client(narrow) as http:

            async def one(key: str) -> int:
                headers = {"authorization": f"Bearer {key}"}
                body = {"prompt": "One,", "max_tokens": 60, "ignore_eos": True, "n": 2}
                return (await http.post("/v1/completions", json=body, headers=headers)).status_code

            codes = await asyncio.gather(*(one(key) for key in ("one", "two", "three") * 3))
            assert sorted(codes) == [200] * 4 + [429] * 5

    asyncio.run(scenario())


def test_the_rate_is_bounded(narrow: RunningServer) -> None:
    """Sixty at once, and one more each second, however long these take."""
    started, served = time.monotonic(), 0
    while (reply := ask(narrow, "three")).status_code == 200:
        served += 1
        assert served <= 61 + (time.monotonic() - started)
    assert reply.status_code == 429 and "60 requests a minute" in reply.text and served >= 40


def test_one_client_does_not_starve_another(wide: RunningServer) -> None:
    """A has 300 requests open all the while, more than run at once; B asks now and then."""

    async def scenario() -> tuple[list[float], float]:
        async with client(wide) as http:
            is_over = asyncio.Event()
            own: list[float] = []

            async def again_and_again(seed: int) -> None:
                body = {"prompt": "word " * 60, "max_tokens": 40, "ignore_eos": True}
                while not is_over.is_set():
                    own.append((await tell(http, {**body, "user": "A", "seed": seed}))[0])

            crowd = [asyncio.create_task(again_and_again(i)) for i in range(300)]
            await asyncio.to_thread(settled, lambda: running(wide) > 256)
            waits = []
            for number in range(5):
                body = {"prompt": f"{number} " + "other " * 60, "max_tokens": 4, "user": "B"}
                waits.append((await tell(http, body))[0])
            is_over.set()
            await asyncio.gather(*crowd)
            return sorted(waits), max(own)

    waits, most = asyncio.run(scenario())
    print(
        f"\nB's first token beside A's 300: {waits[2]:.2f} s (median), {waits[-1]:.2f} s (most); "
        f"A's: {most:.2f} s (most)"
    )
    assert waits[-1] < most / 2


def test_a_thousand_streams(wide: RunningServer) -> None:
    """All finish, none is wrong, and memory does not grow with them."""

    async def scenario() -> list[tuple[float, str]]:
        async with client(wide) as http:
            bodies = [
                {"prompt": f"{i % 10} and", "max_tokens": 8, "temperature": 0, "user": str(i % 7)}
                for i in range(1000)
            ]
            return await asyncio.gather(*(tell(http, body) for body in bodies))

    before, started = memory(wide), time.monotonic()
    told = asyncio.run(scenario())
    seconds = time.monotonic() - started
    grown = {name: (size - before[name]) >> 20 for name, size in memory(wide).items()}
    texts = [said(text) for _, text in told]
    for number, text in enumerate(texts):
        assert text == texts[number % 10]
        assert told[number][1].endswith("data: [DONE]\n\n")
    print(f"\n1,000 streams of 8 tokens: {seconds:.1f} s; grown by {grown} MB")
    assert grown["server"] < 150 and grown["engine"] < 250


def test_clients_that_never_read(wide: RunningServer) -> None:
    """The engine computes their answers and does not wait; what they leave is bounded."""
    before = state(wide)
    size = memory(wide)["server"]
    sockets = never_readers(wide, 256, 40)
    settled(lambda: running(wide) > 100)
    first, _ = asyncio.run(_tell(wide, {"prompt": "other", "max_tokens": 4, "user": "B"}))
    settled(lambda: running(wide) == 0, 150)
    grown = (memory(wide)["server"] - size) >> 20
    for made in sockets:
        made.close()
    settled(lambda: not left_over(before, state(wide)), 20)
    print(f"\n256 clients that never read: another's first token {first:.2f} s; {grown} MB more")
    assert first < 4 and grown < 150


def test_who_reads_late_misses_nothing(wide: RunningServer) -> None:
    """More than the kernel keeps for a client that does not read: the engine is long done with it."""
    body = {"prompt": "A story:", "n": 8, "max_tokens": 500, "logprobs": 20, "ignore_eos": True}
    body |= {"seed": 1, "stream": True, "stream_options": {"continuous_usage_stats": True}}
    _, at_once = asyncio.run(_tell(wide, body))
    before = memory(wide)["server"]
    small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    transport = httpx.HTTPTransport(socket_options=small)
    with (
        httpx.Client(base_url=wide.url, transport=transport, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=body) as response,
    ):
        settled(lambda: running(wide) == 0, 150)
        kept = memory(wide)["server"] - before
        late = response.read().decode()
    print(f"\n{len(late) >> 10} KB that nobody read: {kept >> 10} KB more")
    assert len(late) > 3 << 20 and said(late) == said(at_once)
    assert kept < 60 << 20


async def _tell(server: RunningServer, body: dict[str, Any]) -> tuple[float, str]:
    async with client(server) as http:
        return await tell(http, body)


def test_clients_that_come_and_go(wide: RunningServer) -> None:
    """A storm leaves nothing behind: ``scripts/soak.py`` has longer ones."""
    moments = random.Random(1)
    asyncio.run(come_and_go(wide, 200, 50, moments))
    settled(lambda: running(wide) == 0)
    time.sleep(1)
    before, size = state(wide), memory(wide)
    asyncio.run(come_and_go(wide, 600, 100, moments))
    settled(lambda: not left_over(before, state(wide)), 20)
    time.sleep(1.5)  # the engine checks its blocks when it has had nothing to do for a second
    assert not left_over(before, state(wide))
    grown = {name: (now - size[name]) >> 10 for name, now in memory(wide).items()}
    print(f"\n600 connections that come and go: grown by {grown} KB")
    assert max(grown.values()) < 20_000
