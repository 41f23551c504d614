"""Crowds of clients for tests and for ``scripts/soak.py``: many, slow, and such as leave at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from running_server import RunningServer, engine_pid

WATCHED: dict[str, int] = {}  # what ``left_over`` found last
PAGE = os.sysconf("SC_PAGE_SIZE")
LOOK = 0.05  # seconds between two


def client(server: RunningServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=server.url, limits=limits, timeout=300)


async def tell(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[float, str]:
    """Seconds to the first event of a streamed completion, and all of its body."""
    started, first, text = time.monotonic(), 0.0, ""
    async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        async for part in response.aiter_text():
            first = first or time.monotonic() - started
            text += part
        if response.status_code != 200:
            raise AssertionError(f"{response.status_code}: {text}")
    return first, text


def said(events: str) -> list[tuple[int, str]]:
    """What a streamed completion said: each choice's text, why it ended, and its log-probabilities. How it
    was cut into events is a matter of load."""
    texts: dict[int, str] = {}
    numbers: dict[int, list[float]] = {}
    for line in events.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: ")).get("choices", ()):
                index = choice["index"]
                ending = f" <{choice['finish_reason']}>" if choice["finish_reason"] else ""
                texts[index] = texts.get(index, "") + choice["text"] + ending
                if choice.get("logprobs"):
                    numbers.setdefault(index, []).extend(choice["logprobs"]["token_logprobs"])
    return [(index, f"{text} {numbers.get(index, '')}") for index, text in sorted(texts.items())]


async def come_and_go(
    server: RunningServer, count: int, at_once: int, random_moments: random.Random
) -> None:
    """Connections that are closed at any moment: before, in and after request and answer."""
    places = asyncio.Semaphore(at_once)
    host, port = server.address

    async def one(number: int) -> None:
        async with places:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(host, port)
                stream = b"true" if number % 2 else b"false"
                body = b'{"prompt": "%d is", "max_tokens": 50, "n": %d, "stream": %s}' % (
                    number, 1 + number % 3, stream,
                )  # fmt: skip
                head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
                whole = head % len(body) + body
                cut = random_moments.choice((0, random_moments.randrange(len(whole)), len(whole)))
                writer.write(whole[: cut or len(whole)])
                await asyncio.sleep(random_moments.choice((0, 0.002, random_moments.random() / 3)))
                if number % 5 == 0:
                    await asyncio.wait_for(reader.read(200), 0.5)
                writer.transport.abort() if number % 3 else writer.close()

    async def patiently(number: int) -> None:
        with suppress(TimeoutError):
            await one(number)

    await asyncio.gather(*(patiently(number) for number in range(count)))


def never_readers(server: RunningServer, count: int, max_tokens: int) -> list[socket.socket]:
    """Connections with a small window that ask for a long answer and read nothing of it."""
    sockets = []
    for number in range(count):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect(server.address)
        body = (
            b'{"prompt": "%d", "max_tokens": %d, "logprobs": 5, "ignore_eos": true, "stream": true}'
        )
        body = body % (number, max_tokens)
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        made.sendall(head + body)
        sockets.append(made)
    return sockets


def resident(pid: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def state(server: RunningServer) -> dict[str, int]:
    """What must be the same after a storm as before it."""
    pids = {"server": server.process.pid, "engine": engine_pid(server)}
    found = {f"{name} files": len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()}
    threads = {
        f"{name} threads": len(os.listdir(f"/proc/{pid}/task")) for name, pid in pids.items()
    }
    open_now = {"blocks used, per mille": round(server.metric("kv_cache_usage_perc") * 1000)}
    for name in ("num_requests_running", "num_requests_waiting", "server_tasks", "kept_streams"):
        open_now[name] = round(server.metric(name))
    return found | threads | open_now | {"engine": pids["engine"]}


def left_over(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """What a storm has left. Who asks has a connection too, and some threads start when first needed."""
    slack = {"server files": 4, "server threads": 8, "engine files": 1, "engine threads": 1}
    slack["server_tasks"] = 2
    WATCHED.clear()
    for name, value in now.items():
        most = before[name] + slack.get(name, 0)
        if value > most or (name not in slack and value != before[name]):
            WATCHED[name] = value - before[name]
    return WATCHED


def memory(server: RunningServer) -> dict[str, int]:
    pids = {"server": server.process.pid, "engine": engine_pid(server)}
    return {name: resident(pid) for name, pid in pids.items()}


def settled(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for it. The time is counted in looks: who was stopped meanwhile (SIGSTOP) loses none of it."""
    for _ in range(int(seconds / LOOK)):
        if condition():
            return
        time.sleep(LOOK)
    assert condition(), "it does not come to rest: " + str(WATCHED)
