"""The engine in a process of its own: real processes, a fake model."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import NoReturn

import pytest
from fake_program import TABLE, expected

from legato.batch import BLOCK_SIZE
from legato.config import EngineConfig
from legato.errors import (
    ConfigError,
    ContextLengthError,
    DeadlineError,
    EngineDeadError,
    EngineError,
    ModelError,
    RequestError,
)
from legato.messages import Add, Command
from legato.request import Output, Request, SamplingParams
from legato.server.bridge import EngineClient, EngineState
from legato.server.child import Child
from legato.server.spawning import spawn

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def find_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@asynccontextmanager
async def running(model: str = "fake", **settings: int) -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineConfig(model=model, **settings), loader="fake_program:load")
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def ask(id: str, prompt: list[int], **params: object) -> Request:
    return Request(id=id, prompt_token_ids=prompt, params=SamplingParams(**params))


async def collect(client: EngineClient, request: Request) -> list[Output]:
    return [output async for outputs in client.generate(request) for output in outputs]


async def until(condition: object, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_many_requests_at_once() -> None:
    async def scenario() -> None:
        async with running() as client:
            assert client.ready and client.info.name == "fake"
            requests = [ask(str(i), [i, i + 1], max_tokens=20, n=1 + i % 2) for i in range(20)]
            for request, outputs in zip(
                requests, await asyncio.gather(*(collect(client, r) for r in requests)), strict=True
            ):
                for index in range(request.params.n):
                    tokens = [t for o in outputs if o.index == index for t in o.token_ids]
                    assert tokens == expected(request, index, 1000)[0]
            stats = await client.check_integrity(clear_cache=True)
            assert stats.blocks_free == stats.blocks_total and stats.generation_tokens == 600

    asyncio.run(scenario())


def test_closing_the_iterator_cancels_at_once() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            async with aclosing(client.generate(ask("a", [1], max_tokens=900))) as outputs:
                await anext(outputs)
            await until(lambda: client.stats.blocks_used == 0)
            assert client.stats.generation_tokens < 5
            task = asyncio.create_task(collect(client, ask("b", [1], max_tokens=900)))
            await until(lambda: client.stats.running == 1)
            task.cancel()
            await until(lambda: client.stats.running == 0)
            await client.check_integrity()

    asyncio.run(scenario())


def test_cancelling_one_choice_ends_it_with_abort() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            outputs = []
            async for step in client.generate(ask("a", [1], max_tokens=20, n=2)):
                outputs += step
                client.cancel("a", 1)
            ends = {o.index: o.finish_reason for o in outputs if o.finish_reason}
            assert ends == {0: "length", 1: "abort"}

    asyncio.run(scenario())


def test_refusals_keep_their_kind_and_field() -> None:
    async def scenario() -> None:
        async with running() as client:
            with pytest.raises(ContextLengthError, match="context length is 1000") as caught:
                await collect(client, ask("a", [1] * 1000))
            assert caught.value.field == "prompt"
            assert len(await collect(client, ask("a", [1], max_tokens=3))) == 3

    asyncio.run(scenario())


def test_nobody_is_served_before_there_is_an_engine_nor_twice_under_one_name() -> None:
    async def scenario() -> None:
        with pytest.raises(EngineDeadError, match="the engine is loading"):
            await collect(EngineClient(EngineConfig()), ask("a", [1]))
        async with running("slow") as client:
            first = asyncio.create_task(collect(client, ask("a", [1], max_tokens=20)))
            await until(lambda: client.stats.running == 1)
            with pytest.raises(RequestError, match="'a' is in use"):
                await collect(client, ask("a", [2]))
            assert len(await first) == 20

    asyncio.run(scenario())


def test_another_engine_is_sent_what_a_request_has_been_ranked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []
    original = Child.send

    def send(child: Child, command: Command) -> None:
        if isinstance(command, Add):
            sent.append(command.request.priority)
        original(child, command)

    monkeypatch.setattr(Child, "send", send)

    async def scenario() -> None:
        async with running("slow") as client:
            asking = asyncio.create_task(collect(client, ask("a", [1], max_tokens=60)))
            await until(lambda: client.stats.running == 1)
            client.rank("a", 7)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGKILL)
            await asking
        assert sent == [0, 7]

    asyncio.run(scenario())


def test_another_engine_is_told_what_tokens_spell_too() -> None:
    async def scenario() -> None:
        async with running() as client:
            request = ask("a", [1, 2, 3], max_tokens=3)
            request.pending, request.eos_token_ids = b"gaf", [0]
            with pytest.raises(EngineError, match="what its tokens spell"):
                await collect(client, request)
            client.describe(TABLE.spellings)
            wanted = expected(request, 0, 1000)[0]
            for _ in range(2):
                outputs = await collect(client, request)
                assert [token for output in outputs for token in output.token_ids] == wanted
                assert client.pid is not None
                os.kill(client.pid, signal.SIGKILL)
                await until(lambda: not client.ready)
                await until(lambda: client.ready)

    asyncio.run(scenario())


def test_signals_to_the_whole_group_leave_the_engine_to_its_parent() -> None:
    async def scenario() -> None:
        async with running() as client:
            pid = client.pid
            assert pid is not None
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
            assert len(await collect(client, ask("a", [1], max_tokens=3))) == 3
            assert client.pid == pid

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("missing", ModelError, "missing.gguf: no such file"),
        ("unsettable", ConfigError, "threads: too many"),
        ("crash", EngineDeadError, "exit code 3, 3 times"),
    ],
)
def test_errors_of_loading_reach_the_parent(
    model: str, error: type[Exception], message: str
) -> None:
    async def scenario() -> None:
        client = EngineClient(EngineConfig(model=model), loader="fake_program:load")
        with pytest.raises(error, match=message):
            await client.start()
        assert client.state is EngineState.DEAD
        await client.stop()

    asyncio.run(scenario())


def test_a_process_that_was_started_before_is_the_first_engine() -> None:
    async def scenario() -> None:
        loader = "fake_program:load"
        with closing(spawn(loader)) as first:
            client = EngineClient(EngineConfig(model="fake"), first=first, loader=loader)
            await client.start()
            assert client.pid == first.process.pid
            first.process.kill()
            await until(lambda: client.pid != first.process.pid and client.ready)
            request = ask("a", [1, 2, 3], max_tokens=20)
            tokens = [id for output in await collect(client, request) for id in output.token_ids]
            assert tokens == expected(request, 0, 1000)[0]
            await client.stop()

    asyncio.run(scenario())


def test_a_process_that_nobody_uses_ends_with_its_context() -> None:
    with closing(spawn()) as first:
        assert is_alive(first.process.pid)
    assert not is_alive(first.process.pid)


def test_no_room_for_a_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(EngineDeadError, match="cannot be started: .*Resource temporarily"):
        spawn()


def test_the_engine_dies_with_its_parent() -> None:
    script = (
        "import asyncio, os, signal\n"
        "from legato.config import EngineConfig\n"
        "from legato.server.bridge import EngineClient\n"
        "async def main():\n"
        "    client = EngineClient(EngineConfig(), loader='fake_program:load')\n"
        "    await client.start()\n"
        "    print(client.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, stdout=subprocess.PIPE, timeout=20
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_the_process_imports_little() -> None:
    script = "import sys, legato.engine_process; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    modules = set(done.stdout.decode().split())
    assert not modules & {"tokenizers", "starlette", "torch", "transformers", "jinja2", "rich"}


@pytest.mark.parametrize("ends", ["deadline", "cancel", "hang up"])
def test_blocks_are_free_long_before_others_have_ended(ends: str) -> None:
    """Another request keeps the engine stepping, so that steps can be counted. Here only those that were
    heard of can be: how soon an engine obeys is counted in ``test_serving``."""

    async def scenario() -> None:
        async with running("slow") as client:
            seen: list[tuple[int, int, int]] = []
            client.on_stats = lambda s: seen.append((s.steps, s.running, s.blocks_used))
            other = asyncio.create_task(collect(client, ask("other", [1], max_tokens=400)))
            await until(lambda: client.stats.running == 1)
            outputs = client.generate(
                ask("long", [2] * 100, max_tokens=800),
                timeout=0.4 if ends == "deadline" else None,
            )
            await anext(outputs)
            if ends == "deadline":
                with pytest.raises(DeadlineError):
                    async for _ in outputs:
                        pass
            elif ends == "cancel":
                client.cancel("long")
            else:
                await outputs.aclose()
            over = client.stats.steps
            await until(lambda: client.stats.running == 1)
            at = max(i for i, one in enumerate(seen) if one[1] == 2) + 1
            assert seen[at][0] - over < 100
            assert seen[at - 1][2] - seen[at][2] >= 100 // BLOCK_SIZE - 1  # the other may take one
            await outputs.aclose()
            await other

    asyncio.run(scenario())


def test_what_is_asked_while_an_engine_dies_is_not_lost() -> None:
    """Between a process's end and the news of it, its socket has nobody at the other end."""

    async def scenario() -> None:
        async with running() as client:
            assert client._child is not None and client.pid is not None
            process = client._child._process
            os.kill(client.pid, signal.SIGKILL)
            process.wait()  # the loop, which this thread holds up, has not heard of it
            time.sleep(0.2)
            assert client.ready
            request = ask("a", [1, 2], max_tokens=5)
            tokens = [t for o in await collect(client, request) for t in o.token_ids]
            assert tokens == expected(request, 0, 1000)[0]
            assert client.restarts == 1

    asyncio.run(scenario())
