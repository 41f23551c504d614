"""Prompts beside sequences that decode: how long a step may take, and who enters in chunks."""

from __future__ import annotations

import pytest
from fake_program import FakeProgram, expected, model_info
from test_engine import ask, run, tokens

from legato.config import EngineConfig
from legato.drafting.pace import LEAST_CHUNK, STRETCH, Pace
from legato.engine import Engine
from legato.request import Output

LONG = [1 + i % 40 for i in range(100)]


class Sevens(Pace):
    """Decoding can wait for seven tokens of a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.depths: list[int] = []

    def prompt_tokens(self, decoding: int, entering: int, most: int, depth: int = 0) -> int:
        self.depths.append(depth)
        return min(most, 7)

    def row_cost(self, rows: int) -> float:
        return 1.0


def decoding(pace: Pace, streams: int, **settings: object) -> tuple[Engine, FakeProgram]:
    """An engine in which so many sequences write long answers."""
    program = FakeProgram(64)
    config = EngineConfig(max_num_batched_tokens=64, **settings)
    engine = Engine(program, model_info(64), config, pace)
    for index in range(streams):
        engine.add(ask(f"stream {index}", [40 + index], max_tokens=80))
    engine.step()
    program.rows.clear()
    return engine, program


def check(outputs: list[Output], id: str, prompt: list[int], **params: object) -> None:
    assert tokens(outputs, id) == expected(ask(id, prompt, **params), 0, 1000)[0]


def test_pace_learns_what_rows_and_prompts_take() -> None:
    pace = Pace(target=0.050)
    assert pace.prompt_tokens(4, 1, 512) == 512  # nothing is known
    for _ in range(60):
        pace.learn(4, 0, 0.010)
        pace.learn(12, 0, 0.018)
        pace.learn(4, 100, 0.110)
    assert pace.row_cost(4) == pytest.approx(0.1, rel=0.01)
    assert pace.prompt_tokens(4, 1, 512) == pytest.approx(40, abs=1)
    assert pace.prompt_tokens(4, 40, 512) == pytest.approx(490, abs=1)
    assert pace.prompt_tokens(4, 40, 100) == 100
    assert Pace(target=0).prompt_tokens(4, 1, 512) == 512


def test_rows_do_not_become_cheap_because_they_were_cheap_once() -> None:
    """Contexts grow, and only narrow steps run: a wide one of before took less than a narrow one now."""
    pace = Pace()
    for _ in range(20):
        pace.learn(4, 0, 0.004)
        pace.learn(12, 0, 0.0072)
    cost = pace.row_cost(4)
    assert cost == pytest.approx(0.1, rel=0.01)
    for step in range(200):
        pace.learn(4, 0, 0.004 * (1 + step / 200))
    assert pace.row_cost(4) == pytest.approx(cost, rel=0.15)
    pace.learn(12, 0, 0.012)  # and what was not so is learned
    assert pace.row_cost(4) < cost


def test_a_target_bounds_the_step() -> None:
    pace = Pace(target=0.030)
    for _ in range(60):
        pace.learn(4, 0, 0.010)
        pace.learn(4, 100, 0.110)
    assert pace.prompt_tokens(4, 1, 512) == pytest.approx(20, abs=1)
    slow = Pace(target=0.001)
    slow.learn(4, 0, 0.010)
    slow.learn(4, 100, 0.110)
    assert slow.prompt_tokens(4, 1, 512) == LEAST_CHUNK


def test_tokens_that_see_more_context_take_longer() -> None:
    pace = Pace(target=0.030)
    for _ in range(60):
        pace.learn(4, 0, 0.010)
        pace.learn(4, 100, 0.110, depth=100)
    assert pace.prompt_tokens(4, 1, 512, depth=500) == pytest.approx(20, abs=1)
    assert pace.prompt_tokens(4, 1, 512, depth=600) == pytest.approx(10, abs=1)  # not seen yet
    assert pace.prompt_tokens(4, 1, 512, depth=9000) == LEAST_CHUNK
    pace.learn(4, 10, 0.040, depth=9000)
    assert pace.prompt_tokens(4, 1, 512, depth=9000) == 6
    assert pace.prompt_tokens(4, 1, 512, depth=100) == pytest.approx(20, abs=1)


def test_without_a_target_a_step_takes_a_multiple_of_what_it_takes_alone() -> None:
    pace = Pace()
    for _ in range(60):
        pace.learn(4, 0, 0.010)
        pace.learn(4, 100, 0.110)
    assert pace.prompt_tokens(4, 1, 512) == pytest.approx(10 * (STRETCH - 1), abs=1)
    assert pace.prompt_tokens(4, 8, 512) == pytest.approx(10 * (2 * STRETCH - 1), abs=1)


def test_a_long_prompt_enters_in_chunks_that_decoding_can_wait_for() -> None:
    pace = Sevens()
    engine, program = decoding(pace, 2)
    engine.add(ask("long", LONG, max_tokens=1))
    check(run(engine), "long", LONG, max_tokens=1)
    assert program.rows[:15] == [2 + 7] * 14 + [2 + 2] and max(program.rows[15:]) == 2
    assert pace.depths == list(range(0, 100, 7))


class Free(Sevens):
    """A guess costs nothing."""

    def row_cost(self, rows: int) -> float:
        return 0.0


def test_who_waits_for_a_long_prompts_chunk_does_not_wait_for_guesses_too() -> None:
    engine, program = decoding(Free(), 0)
    answer = ask("answer", [40], max_tokens=80)
    answer.prediction_token_ids = expected(answer, 0, 1000)[0]
    engine.add(answer)
    outputs = engine.step()
    engine.add(ask("long", LONG, max_tokens=1))
    check(outputs + run(engine), "answer", [40], max_tokens=80)
    assert program.rows[1:16] == [1 + 7] * 14 + [1 + 2] and program.rows[16] > 2


def test_a_short_prompt_enters_at_once_and_does_not_wait_for_a_long_one() -> None:
    engine, program = decoding(Sevens(), 2)
    engine.add(ask("long", LONG, max_tokens=1))
    engine.step()
    engine.add(ask("short", LONG[50:100], max_tokens=1))
    outputs = engine.step()
    check(outputs, "short", LONG[50:100], max_tokens=1)
    assert program.rows == [2 + 7, 2 + 7 + 50]
    check(run(engine), "long", LONG, max_tokens=1)
    engine.check_integrity()


def test_what_is_cached_makes_a_prompt_short() -> None:
    engine, program = decoding(Sevens(), 2)
    engine.add(ask("first", LONG, max_tokens=1))
    while not tokens(engine.step(), "first"):
        pass
    engine.add(ask("other", [9] * 99, max_tokens=1))
    engine.step()
    program.rows.clear()
    again = [*LONG, *range(30)]
    engine.add(ask("again", again, max_tokens=1))
    check(engine.step(), "again", again, max_tokens=1)
    assert program.rows == [2 + 7 + 30]


def test_a_target_that_was_asked_for_holds_for_every_prompt() -> None:
    engine, program = decoding(Sevens(), 1, step_time_target_ms=15.0)
    engine.add(ask("short", LONG[:20], max_tokens=1))
    engine.add(ask("next", LONG[60:80], max_tokens=1))
    outputs = run(engine)
    assert program.rows[:6] == [1 + 7] * 5 + [1 + 5]
    check(outputs, "short", LONG[:20], max_tokens=1)
    check(outputs, "next", LONG[60:80], max_tokens=1)


def test_nobody_decodes_nobody_waits() -> None:
    program = FakeProgram(64)
    engine = Engine(program, model_info(64), EngineConfig(max_num_batched_tokens=64), Pace(0.0001))
    engine.add(ask("long", [1] * 200, max_tokens=2))
    run(engine)
    assert program.rows == [64, 64, 64, 8, 1]
