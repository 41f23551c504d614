"""The loop of the engine's process: when commands are obeyed, counted in steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_program import FakeProgram, model_info

from legato.batch import BLOCK_SIZE
from legato.config import EngineConfig
from legato.engine import Engine
from legato.engine_process import serve
from legato.messages import Add, Cancel, Command, Event, Stepped, Stop
from legato.request import FinishReason, Request, SamplingParams


class Wire:
    """``script``: after so many steps, this command comes. Notes what is sent, and after how many steps."""

    def __init__(self, program: FakeProgram, script: list[tuple[int, Command]]) -> None:
        self.program, self.script = program, script
        self.sent: list[tuple[int, Event, int]] = []

    def has_message(self, milliseconds: int | None = 0) -> bool:
        return bool(self.script) and self.script[0][0] <= self.program.steps

    def receive(self) -> Command:
        return self.script.pop(0)[1]

    def send(self, event: Event) -> None:
        used = event.stats.blocks_used if isinstance(event, Stepped) else -1
        self.sent.append((self.program.steps, event, used))


def ask(id: str, length: int) -> Add:
    params = SamplingParams(max_tokens=500)
    return Add(Request(id=id, prompt_token_ids=[1 + len(id)] * length, params=params))


@pytest.mark.parametrize("at", [1, 3, 20])
@pytest.mark.parametrize("index", [None, 0])
def test_what_is_cancelled_frees_its_blocks_before_the_next_step(
    at: int, index: int | None
) -> None:
    """A deadline, a client that hangs up, a cancel: the server sends the same command. Whatever came while
    a step ran is obeyed before another one begins."""
    program = FakeProgram(64)
    engine = Engine(program, model_info(64), EngineConfig(model="fake"))
    script: list[tuple[int, Command]] = [
        (0, ask("other", 5)),
        (0, ask("long", 10 * BLOCK_SIZE)),
        (at, Cancel("long", index)),
        (at + 3, Stop()),
    ]
    wire = Wire(program, script)
    serve(wire, engine, None)  # type: ignore[arg-type]
    [(steps, used)] = [
        (steps, used)
        for steps, event, used in wire.sent
        if isinstance(event, Stepped)
        and any(
            one.request_id == "long" and one.finish_reason is FinishReason.ABORT
            for one in event.outputs
        )
    ]
    assert steps == at and used <= 3
    engine.check_integrity()


def blocks_after(end: Callable[[Engine], object]) -> tuple[int, int]:
    program = FakeProgram(64)
    engine = Engine(program, model_info(64), EngineConfig(model="fake"))
    engine.add(ask("a", 100).request)
    engine.step()
    held, steps = engine.stats().blocks_used, program.steps
    end(engine)
    assert program.steps == steps
    return held, engine.stats().blocks_used


def test_cancelling_takes_no_step() -> None:
    assert blocks_after(lambda engine: engine.cancel("a")) == (7, 0)
    assert blocks_after(lambda engine: engine.cancel("b")) == (7, 7)
