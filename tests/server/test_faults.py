"""Engines that are killed, hang, crash or run out of memory under open streams: the real server, the
real model. What a client gets is what an undisturbed server sends: each byte of text, each token, each
bit of the log-probabilities."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, engine_pid, start_server

STREAMS = 32
KILLS = 10
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "ages": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 9},
        "story": {"type": "string", "minLength": 60, "maxLength": 400},
    },
    "required": ["name", "ages", "story"],
    "additionalProperties": False,
}
OTHERWISE = ("id", "created", "model", "object", "input_tokens", "cache_read_input_tokens")
"""What may differ from one asking to the next: names, times, how much was cached."""
TOPICS = ("a river", "two brothers", "bread", "the moon", "a clock", "winter", "a whale", "music")


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Streams of every kind: path and body."""
    made = []
    for i in range(STREAMS):
        text = f"{i}: tell me a story of {TOPICS[i % 8]}."
        sampling: dict[str, Any] = {"max_tokens": 90 + 5 * (i % 7), "seed": i, "stream": True}
        sampling |= {"temperature": 0.0 if i % 3 == 0 else 0.9, "n": 1 + (i % 5 == 4)}
        chat = {"messages": [{"role": "user", "content": text}], **sampling}
        match i % 8:
            case 0 | 1:
                made.append(("/v1/chat/completions", chat))
            case 2:
                made.append(("/v1/completions", {"prompt": text, "logprobs": 3, **sampling}))
            case 3:
                extra = {"logprobs": True, "top_logprobs": 2, "min_tokens": 60, "ignore_eos": True}
                made.append(("/v1/chat/completions", chat | extra))
            case 4:
                schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
                made.append(("/v1/chat/completions", chat | {"response_format": schema}))
            case 5:  # healing: the answer was begun, and cut within a word
                begun = {"role": "assistant", "content": "Once upon a ti"}
                chat["messages"].append(begun)
                made.append(("/v1/chat/completions", chat | {"repetition_penalty": 1.1}))
            case 6:
                body = {"prompt": [text, text + " No,"], "echo": True, "return_token_ids": True}
                made.append(("/v1/completions", body | sampling))
            case 7:
                body = {"max_tokens": 110, "messages": chat["messages"], "stream": True}
                made.append(("/v1/messages", body | {"model": "smollm2", "temperature": 0}))
    return made


@dataclass
class Stream:
    """What came, and when."""

    body: bytes = b""
    arrivals: list[float] = field(default_factory=list)

    @property
    def said(self) -> dict[str, Any]:
        """All that each choice was told, in order: texts, token ids, log-probabilities, reasons.

        Not ids and times, and not how it was cut into events: a step may bring several tokens of an
        answer whose beginning is spelled anew, and which ones it brings together is a matter of load.
        """
        said: dict[str, Any] = {}
        for line in self.body.split(b"\n"):
            if not line.startswith(b"data: {"):
                if line != b"event: content_block_delta":
                    said["rest"] = said.get("rest", b"") + line
                continue
            event = json.loads(line.removeprefix(b"data: "))
            event.pop("message", None)  # Anthropic's has an id
            if event.get("type") == "content_block_delta":  # of which there may be more or fewer
                del event["type"], event["delta"]["type"]
            for choice in event.get("choices") or [event]:
                index = choice.pop("index", 0)
                for name, value in flat(choice):
                    if name.rpartition(".")[2] not in OTHERWISE:
                        key = f"{index}.{name}"
                        said[key] = said[key] + value if key in said else value
        return said


def flat(event: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Its texts and lists, which go on from one event to the next; the rest as lists of one."""
    for name, value in event.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        elif isinstance(value, str | list):
            yield path + name, value
        elif value is not None:
            yield path + name, [value]


async def ask(http: httpx.AsyncClient, path: str, body: dict[str, Any], into: Stream) -> None:
    async with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for part in response.aiter_raw():
            into.body += part
            into.arrivals.append(time.monotonic())


async def ask_all(url: str, meanwhile: Callable[[], Any] | None = None) -> list[Stream]:
    streams = [Stream() for _ in range(STREAMS)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        asking = [
            asyncio.create_task(ask(http, *request, stream))
            for request, stream in zip(requests(), streams, strict=True)
        ]
        if meanwhile is not None:
            await meanwhile()
        await asyncio.gather(*asking)
    return streams


@pytest.fixture(scope="module")
def undisturbed(server: RunningServer) -> list[Stream]:
    return asyncio.run(ask_all(server.url))


@pytest.fixture(scope="module")
def hurt(model_path: Path) -> Iterator[RunningServer]:
    """A server to be hurt."""
    started = start_server(str(model_path), *SETTINGS, "--served-model-name", "smollm2")
    yield started
    started.process.terminate()
    started.process.wait(20)


async def engine(server: RunningServer, before: int | None = None) -> int:
    """The process of an engine that is ready, and not that of one ``before``."""
    while True:
        with suppress(AssertionError, FileNotFoundError):
            if httpx.get(f"{server.url}/ready").status_code == 200:
                pid = engine_pid(server)
                if pid != before:
                    return pid
        await asyncio.sleep(0.02)


def check(streams: list[Stream], undisturbed: list[Stream]) -> None:
    for request, mine, theirs in zip(requests(), streams, undisturbed, strict=True):
        for name, value in theirs.said.items():
            assert mine.said[name] == value, (request, name)
        assert mine.said.keys() == theirs.said.keys()


def first_after(streams: list[Stream], moment: float) -> float:
    """Seconds to the first thing that any client got after ``moment``."""
    later = [t - moment for stream in streams for t in stream.arrivals if t > moment + 0.05]
    return min(later, default=0.0)


def test_kills_at_random_moments(
    hurt: RunningServer, undisturbed: list[Stream], record_property: Callable[[str, Any], None]
) -> None:
    """32 streams, 10 kills, some of them while the engine loads: no token is lost, doubled or changed."""
    kills: list[float] = []
    random_moments = random.Random(4)

    async def killer() -> None:
        for number in range(KILLS):
            if number % 4:
                await engine(hurt)
            await asyncio.sleep(random_moments.uniform(0.05, 0.9))
            with suppress(AssertionError, ProcessLookupError):
                os.kill(engine_pid(hurt), signal.SIGKILL)
                kills.append(time.monotonic())

    streams = asyncio.run(ask_all(hurt.url, killer))
    check(streams, undisturbed)
    assert len(kills) == KILLS
    waits = sorted(
        first_after(streams, kill)
        for kill, following in zip(kills, [*kills[1:], kills[-1] + 100], strict=True)
        if first_after(streams, kill) < following - kill
    )
    print(
        f"\n{STREAMS} streams, {KILLS} kills: 0 tokens differ; kill to first resumed token "
        f"{waits[len(waits) // 2]:.2f} s (median), {waits[-1]:.2f} s (most)"
    )
    record_property("resume_seconds", waits[-1])
    assert waits[-1] < 6  # 3 on a machine that has nothing else to do
    assert hurt.metric("kv_cache_usage_perc") == 0
    assert hurt.metric("engine_restarts_total") >= KILLS / 2  # some hit an engine that was loading
    assert hurt.metric("requests_resumed_total") >= STREAMS


def test_a_crash_a_hang_and_no_memory(model_path: Path, undisturbed: list[Stream]) -> None:
    """A crash in the process's own code, a step that does not end, memory that is refused."""
    hurt = start_server(
        str(model_path), *SETTINGS, "--served-model-name", "smollm2", "--step-timeout", "2"
    )

    async def faults() -> None:
        first = await engine(hurt)
        os.kill(first, signal.SIGSEGV)
        second = await engine(hurt, first)
        os.kill(second, signal.SIGSTOP)
        pid = await engine(hurt, second)
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * 4096
        resource.prlimit(pid, resource.RLIMIT_AS, (used, used))  # not one page more
        await asyncio.sleep(0.5)

    try:
        check(asyncio.run(ask_all(hurt.url, faults)), undisturbed)
    finally:
        hurt.process.terminate()
        hurt.process.wait(20)


def test_a_server_that_was_stopped_does_not_blame_its_engine(
    model_path: Path, undisturbed: list[Stream]
) -> None:
    """A container or a virtual machine that is paused: all stands still for longer than a step may take."""
    hurt = start_server(
        str(model_path), *SETTINGS, "--served-model-name", "smollm2", "--step-timeout", "2"
    )

    async def pause() -> None:
        stopped = (hurt.process.pid, await engine(hurt))
        for moment in (0.3, 0.7):
            await asyncio.sleep(moment)
            for sign in (signal.SIGSTOP, signal.SIGCONT):
                for pid in stopped:
                    os.kill(pid, sign)
                if sign == signal.SIGSTOP:
                    await asyncio.sleep(4)

    try:
        check(asyncio.run(ask_all(hurt.url, pause)), undisturbed)
        assert hurt.metric("engine_restarts_total") == 0
    finally:
        hurt.process.terminate()
        hurt.process.wait(20)


def test_a_request_that_three_engines_die_of_is_given_up(hurt: RunningServer) -> None:
    """By itself, with an error that says so; the next one is served."""
    before = hurt.metric("engine_restarts_total")
    body = {"prompt": "word " * 1900, "max_tokens": 20, "cache_salt": "its own"}

    async def scenario() -> httpx.Response:
        async with httpx.AsyncClient(base_url=hurt.url, timeout=60) as http:
            asking = asyncio.create_task(http.post("/v1/completions", json=body))
            while not hurt.metric("num_requests_running"):  # the first part of its prompt
                await asyncio.sleep(0.01)
            while not asking.done():
                pid = await engine(hurt)
                resumed = hurt.metric("requests_resumed_total")
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSEGV)
                deadline = time.monotonic() + 20
                while not asking.done() and hurt.metric("requests_resumed_total") == resumed:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)
            return await asking

    reply = asyncio.run(scenario())
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "engine_died_repeatedly"
    assert "3 engines in a row" in reply.json()["error"]["message"]
    asyncio.run(engine(hurt))
    assert hurt.metric("engine_restarts_total") == before + 3  # it was tried three times
    good = {"prompt": "One, two,", "max_tokens": 3}
    assert httpx.post(f"{hurt.url}/v1/completions", json=good, timeout=60).status_code == 200


def test_requests_wait_for_the_next_engine(hurt: RunningServer) -> None:
    os.kill(asyncio.run(engine(hurt)), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while httpx.get(f"{hurt.url}/ready").status_code == 200:
        assert time.monotonic() < deadline
    assert httpx.get(f"{hurt.url}/ready").json() == {"status": "restarting"}
    assert httpx.get(f"{hurt.url}/health").status_code == 200
    body = {"prompt": "One, two,", "max_tokens": 3, "temperature": 0}
    reply = httpx.post(f"{hurt.url}/v1/completions", json=body, timeout=20)
    assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 3
