"""Engines that die while requests are open: another one goes on, and nobody can tell from the tokens.

Real processes, a fake model whose tokens an oracle knows.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from fake_program import TABLE, FakeProgram, expected, model_info
from test_bridge import ask, collect, find_the_fake, running, until

from legato.config import EngineConfig
from legato.engine import Engine
from legato.errors import DeadlineError, EngineDeadError, EngineError, RepeatedDeathError
from legato.request import FinishReason, Output, Progress, Request
from legato.server.bridge import EngineClient, EngineState
from legato.server.suspects import CONDEMNED_BY_KILLS

__all__ = ["find_the_fake"]


def tokens_of(outputs: list[Output], index: int = 0) -> list[int]:
    return [token for output in outputs if output.index == index for token in output.token_ids]


def kill(client: EngineClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


def every_kind(count: int) -> list[Request]:
    """Greedy and sampled, with choices, penalties, least and most tokens, pending text, log-probabilities."""
    requests = []
    for i in range(count):
        request = ask(
            str(i), [1 + i % 40, 2, 3], max_tokens=40 + i, n=1 + i % 3, seed=i,
            temperature=float(i % 2), min_tokens=5 * (i % 4), stop_token_ids=[5, 6],
            repetition_penalty=1.0 + 0.1 * (i % 3), logprobs=2 if i % 2 else None,
            prompt_logprobs=1 if i % 5 == 0 else None,
        )  # fmt: skip
        request.eos_token_ids = [0]
        request.pending = b"gafc" if i % 4 == 3 else b""
        request.output_token_ids = [7, 8] if i % 6 == 1 else []
        requests.append(request)
    return requests


def check_outputs(request: Request, outputs: list[Output], undisturbed: list[Output]) -> None:
    for index in range(request.params.n):
        wanted, reason = expected(request, index, 1000)
        mine = [o for o in outputs if o.index == index]
        theirs = [o for o in undisturbed if o.index == index]
        assert request.output_token_ids + tokens_of(mine, index) == wanted, request
        assert [o.finish_reason for o in mine if o.finish_reason] == [reason]
        assert (
            sum(o.cached_tokens is not None for o in mine) == 1
        )  # what only the first output tells
        for name in ("logprobs", "prompt_logprobs"):
            flat = [[x for o in side for x in getattr(o, name) or ()] for side in (mine, theirs)]
            assert flat[0] == flat[1]


def test_an_engine_goes_on_behind_anothers_tokens() -> None:
    """Whatever a choice had, the rest is the same, and what was told is not told again."""
    for request in every_kind(24):
        whole = run(request)
        for cut in (0, 1, 3, 17):
            first, progress = whole[:cut], []
            for index in range(request.params.n):
                mine = [o for o in first if o.index == index]
                if not any(o.finish_reason for o in mine):
                    progress.append(
                        Progress(
                            index=index, token_ids=tokens_of(mine, index), is_announced=bool(mine)
                        )
                    )
            if not progress:
                continue
            request.progress = progress
            rest = run(request)
            request.progress = None
            check_outputs(request, first + rest, whole)


def run(request: Request) -> list[Output]:
    engine = Engine(FakeProgram(), model_info(), EngineConfig(model="fake"))
    engine.describe(TABLE)
    engine.add(request)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
    return outputs


def test_tokens_behind_the_end_are_refused() -> None:
    engine = Engine(FakeProgram(), model_info(), EngineConfig(model="fake"))
    request = ask("a", [1], max_tokens=2)
    request.progress = [Progress(index=0, token_ids=[1, 2, 3])]
    with pytest.raises(EngineError, match="behind its end"):
        engine.add(request)
    engine.check_integrity()


def test_kills_at_random_moments_change_no_token() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            client.describe(TABLE.spellings)
            requests = every_kind(24)
            undisturbed = [await collect(client, request) for request in requests[:6]]
            asking = [asyncio.create_task(collect(client, request)) for request in requests]
            for moment in random.Random(1).choices(range(1, 30), k=6):
                # An engine that did nothing before it was killed counts against who waited for it.
                await until(lambda: client.ready and client.stats.generation_tokens > 0)
                await asyncio.sleep(moment / 200)
                kill(client)
                await until(lambda: not client.ready)
            outputs = await asyncio.gather(*asking)
            assert client.restarts == 6 and client.resumed >= 24
            for request, mine in zip(requests, outputs, strict=True):
                check_outputs(request, mine, run(request))
            for mine, theirs in zip(undisturbed, outputs, strict=False):
                assert tokens_of(mine) == tokens_of(theirs)
            await client.check_integrity()

    asyncio.run(scenario())


def test_requests_wait_while_an_engine_starts() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            kill(client)
            await until(lambda: client.state is EngineState.RESTARTING)
            request = ask("a", [1], max_tokens=3)
            assert tokens_of(await collect(client, request)) == expected(request, 0, 1000)[0]
            assert client.resumed == 0

    asyncio.run(scenario())


def test_a_request_that_kills_every_engine_is_given_up_and_takes_nobody_along() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            innocent = [ask(str(i), [i + 1, 2], max_tokens=150) for i in range(12)]
            asking = [asyncio.create_task(collect(client, request)) for request in innocent]
            await until(lambda: client.stats.running == 12)
            begun = asyncio.create_task(collect(client, ask("bad", [49], max_tokens=5)))
            with pytest.raises(RepeatedDeathError, match=r"3 engines in a row .* exit code 7"):
                await begun
            for request, outputs in zip(innocent, await asyncio.gather(*asking), strict=True):
                assert tokens_of(outputs) == expected(request, 0, 1000)[0]
            assert client.restarts == 3

    asyncio.run(scenario())


def test_two_that_kill_are_both_found() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            requests = [
                ask(str(i), [49 if i in (3, 7) else i + 1], max_tokens=30) for i in range(9)
            ]
            asking = [asyncio.create_task(collect(client, request)) for request in requests]
            results = await asyncio.gather(*asking, return_exceptions=True)
            for i, (request, result) in enumerate(zip(requests, results, strict=True)):
                if i in (3, 7):
                    assert isinstance(result, RepeatedDeathError)
                else:
                    assert isinstance(result, list), result
                    assert tokens_of(result) == expected(request, 0, 1000)[0]

    asyncio.run(scenario())


def test_choices_that_have_to_wait_are_no_sign_of_a_fault() -> None:
    """More choices than run at once: each engine brings the first ones further."""

    async def scenario() -> None:
        async with running("slow", max_num_seqs=2) as client:
            request = ask("a", [1], max_tokens=80, n=4, temperature=1.0)
            asking = asyncio.create_task(collect(client, request))
            for _ in range(CONDEMNED_BY_KILLS):
                await until(lambda: client.ready and client.stats.generation_tokens > 0)
                kill(client)
                await until(lambda: not client.ready)
            outputs = await asking
            for index in range(4):
                assert tokens_of(outputs, index) == expected(request, index, 1000)[0]

    asyncio.run(scenario())


def test_a_hanging_engine_is_replaced() -> None:
    async def scenario() -> None:
        client = EngineClient(
            EngineConfig(model="slow"), loader="fake_program:load", step_timeout=2
        )
        await client.start()
        request = ask("a", [1], max_tokens=60)
        asking = asyncio.create_task(collect(client, request))
        await until(lambda: client.stats.running == 1)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGSTOP)
        assert tokens_of(await asking) == expected(request, 0, 1000)[0]
        assert client.restarts == 1
        await asyncio.sleep(3)  # silence without work is no fault
        assert client.restarts == 1
        with pytest.raises(RepeatedDeathError, match="hung: no step ended within 2 s"):
            await collect(client, ask("b", [48], max_tokens=5))
        await client.stop()

    asyncio.run(scenario())


def test_a_cancelled_request_does_not_come_back() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            async with aclosing(client.generate(ask("a", [1], max_tokens=900))) as outputs:
                await anext(outputs)
                kill(client)
                await until(lambda: not client.ready)
            both = asyncio.create_task(collect(client, ask("b", [1], max_tokens=30, n=2)))
            await asyncio.sleep(0)
            client.cancel("b", 1)
            ends = {o.index: o.finish_reason for o in await both if o.finish_reason}
            assert ends == {0: FinishReason.LENGTH, 1: FinishReason.ABORT}
            assert client.stats.blocks_used == 0 and client.stats.running == 0
            await client.check_integrity()

    asyncio.run(scenario())


@pytest.mark.parametrize("has_begun", [False, True])
def test_the_time_is_over_while_an_engine_starts(
    monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    """Whoever asked is told so, and no engine works for a request that has ended, read or not."""
    monkeypatch.setattr("legato.server.bridge.ATTEMPT_DELAYS", (0.5,))

    async def scenario() -> None:
        async with running("slow") as client:
            request = ask("a", [1], max_tokens=900, n=2)
            answer = client.generate(request, timeout=0.3)
            if has_begun:
                await anext(answer)
            kill(client)
            await until(lambda: client.state is EngineState.RESTARTING)
            if not has_begun:
                with pytest.raises(DeadlineError):
                    await collect_all(answer)
            await until(lambda: client.ready)
            other = ask("b", [2], max_tokens=5)
            assert tokens_of(await collect(client, other)) == expected(other, 0, 1000)[0]
            assert client.stats.running == 0 and client.stats.generation_tokens == 5
            if has_begun:
                left: list[Output] = []
                with pytest.raises(DeadlineError):
                    await collect_all(answer, left)
                assert not any(output.finish_reason for output in left)

    asyncio.run(scenario())


async def collect_all(
    answer: AsyncIterator[list[Output]], outputs: list[Output] | None = None
) -> list[Output]:
    """Also what came before it failed, in ``outputs``."""
    outputs = [] if outputs is None else outputs
    async for step in answer:
        outputs += step
    return outputs


def test_a_choice_that_was_being_cancelled_ends_with_its_engine() -> None:
    async def scenario() -> None:
        async with running("slow") as client:
            outputs = []
            async for step in client.generate(ask("a", [1], max_tokens=60, n=2)):
                if not outputs:
                    assert client.pid is not None
                    os.kill(client.pid, signal.SIGSTOP)  # it will not hear of the cancellation
                    client.cancel("a", 1)
                    kill(client)
                outputs += step
            assert {o.index: o.finish_reason for o in outputs if o.finish_reason} == {
                0: FinishReason.LENGTH,
                1: FinishReason.ABORT,
            }
            assert tokens_of(outputs) == expected(ask("a", [1], max_tokens=60, n=2), 0, 1000)[0]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        ("nothing", "no other engine could be started"),
        ("load_other_weights", "fake: its files have changed since the server started"),
    ],
)
def test_without_another_engine_requests_end_and_later_ones_are_served(
    monkeypatch: pytest.MonkeyPatch, loader: str, why: str
) -> None:
    monkeypatch.setattr("legato.server.bridge.ATTEMPT_DELAYS", (0.0, 0.1))
    monkeypatch.setattr("legato.server.bridge.SECONDS_DEAD", 0.3)

    async def scenario() -> None:
        async with running("slow") as client:
            good = client._loader
            client._loader = f"fake_program:{loader}"
            asking = asyncio.create_task(collect(client, ask("a", [1], max_tokens=900)))
            await until(lambda: client.stats.running == 1)
            kill(client)
            with pytest.raises(EngineDeadError, match=why):
                await asking
            assert client.state is EngineState.DEAD
            with pytest.raises(EngineDeadError, match="dead"):
                await collect(client, ask("b", [1]))
            client._loader = good
            await until(lambda: client.ready)
            assert len(await collect(client, ask("c", [1], max_tokens=3))) == 3

    asyncio.run(scenario())


def test_who_does_not_read_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with running() as client:
            request = ask("a", [1], max_tokens=900, n=2, logprobs=1)
            outputs = []
            async for step in client.generate(request):
                if not outputs:
                    started = time.monotonic()
                    await until(lambda: client.stats.generation_tokens == 1800, 20)
                    assert time.monotonic() - started < 20
                else:
                    assert len(step) <= 64 + 2
                outputs += step
            assert len(outputs) <= 2 * (64 + 2)  # several may have come before the first reading
            for index in (0, 1):
                assert tokens_of(outputs, index) == expected(request, index, 1000)[0]
                assert sum(len(o.logprobs or ()) for o in outputs if o.index == index) == 900

    asyncio.run(scenario())
