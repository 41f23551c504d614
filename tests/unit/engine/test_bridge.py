"""The engine in a process of its own: real processes, a fake model."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from fake_program import TABLE, expected

from legato.config import EngineConfig
from legato.errors import ConfigError, ContextLengthError, EngineDeadError, EngineError, ModelError
from legato.request import Output, Request, SamplingParams
from legato.server.bridge import EngineClient, EngineState

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def find_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@asynccontextmanager
async def running(model: str = "fake") -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineConfig(model=model), loader="fake_program:load")
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
