"""A draft model: fewer steps, the same answers, its own blocks given back; how far it guesses."""

from __future__ import annotations

import pytest
from fake_program import FakeModel, FakeProgram, OftenRight, expected, model_info
from test_engine import ask, run, tokens

from legato.config import EngineConfig
from legato.drafting.lengths import PRIOR, Acceptance, best_length
from legato.drafting.pace import Pace
from legato.engine import Engine


class Slow(Pace):
    """Steps are so slow that any guess pays."""

    def row_cost(self, rows: int) -> float:
        return 0.0

    def seconds(self, rows: int) -> float:
        return 10.0


class Dear(Slow):
    def row_cost(self, rows: int) -> float:
        return 0.1


def engine_of(
    draft: FakeProgram, pace: Pace | None = None, **settings: object
) -> tuple[Engine, FakeProgram]:
    program = FakeProgram(64)
    info = model_info(draft.num_blocks)
    config = EngineConfig(speculative_config="off", **settings)
    return Engine(program, model_info(64), config, pace or Slow(), FakeModel(draft, info)), program


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.0}, {"frequency_penalty": 0.5}, {"min_tokens": 30}]
)
def test_a_model_that_is_always_right(params: dict[str, object]) -> None:
    draft = FakeProgram(64)
    engine, program = engine_of(draft)
    request = ask("a", [1, 2, 3], max_tokens=60, **params)
    engine.add(request)
    assert tokens(run(engine), "a") == expected(request, 0, 1000)[0]
    assert program.steps <= 2 + 60 // 9 + 1


def test_a_model_that_is_often_right() -> None:
    engine, program = engine_of(OftenRight(64))
    requests = [ask(str(i), [i, 2, 3] * 9, max_tokens=60) for i in range(5)]
    for request in requests:
        engine.add(request)
    outputs = run(engine)
    for request in requests:
        assert tokens(outputs, request.id) == expected(request, 0, 1000)[0]
    assert program.steps < 40
    engine.check_integrity()


def test_a_model_that_is_never_right_is_asked_no_longer() -> None:
    class Wrong(FakeProgram):
        def _sample(self, batch):  # type: ignore[no-untyped-def]
            ids, *rest = super()._sample(batch)
            return (ids + 1) % 50, *rest

    draft = Wrong(64)
    engine, program = engine_of(draft, Dear())
    request = ask("a", [1, 2, 3], max_tokens=300)
    engine.add(request)
    assert tokens(run(engine), "a") == expected(request, 0, 1000)[0]
    assert program.steps == 300
    assert draft.steps < 100
    assert sum(program.rows[150:]) < 1.1 * 150


def test_choices_read_their_prompt_once() -> None:
    draft = FakeProgram(64)
    engine, _ = engine_of(draft)
    request = ask("a", list(range(40)) * 2, max_tokens=20, n=3)
    engine.add(request)
    outputs = run(engine)
    for index in range(3):
        assert tokens(outputs, "a", index) == expected(request, index, 1000)[0]
    long_rounds = [rows for rows in draft.rows if rows > 30]
    assert len(long_rounds) <= 2, draft.rows


def test_a_cache_that_is_cleared_is_cleared_in_both_models() -> None:
    draft = FakeProgram(64)
    engine, _ = engine_of(draft)
    read = []
    for clears in (False, True, False):
        if clears:
            engine.clear_cache()
        draft.rows.clear()
        engine.add(ask("a", list(range(40)) * 2, max_tokens=20))
        run(engine)
        read.append(sum(draft.rows))
    assert read[0] == read[1] > read[2] + 60


def test_a_pool_that_is_too_small() -> None:
    engine, program = engine_of(FakeProgram(2))
    request = ask("a", [5] * 50, max_tokens=20)
    engine.add(request)
    assert tokens(run(engine), "a") == expected(request, 0, 1000)[0]
    assert program.steps == 20
    engine.check_integrity()


def test_cancelled_requests_give_blocks_back() -> None:
    draft = FakeProgram(64)
    engine, _ = engine_of(draft)
    for round in range(8):
        for i in range(4):
            engine.add(ask(f"{round} {i}", [i] * 40, max_tokens=100))
        for _ in range(5):
            engine.step()
        for i in range(4):
            engine.cancel(f"{round} {i}")
        engine.check_integrity()
    assert not engine.has_work


def test_one_prompt_is_read_in_pieces() -> None:
    draft = FakeProgram(64)
    engine, _ = engine_of(draft, max_num_batched_tokens=16)
    request = ask("a", list(range(45)) * 3, max_tokens=60)
    engine.add(request)
    assert tokens(run(engine), "a") == expected(request, 0, 1000)[0]
    assert max(draft.rows) <= 16


def test_acceptance_follows_what_comes() -> None:
    acceptance = Acceptance()
    assert acceptance.chance == PRIOR
    for _ in range(60):
        acceptance.learn(0, failed=True)
    assert acceptance.chance < 0.1
    for _ in range(5000):
        acceptance.rest()
    assert acceptance.chance > 0.6, "it is tried again"
    for _ in range(30):
        acceptance.learn(4, failed=False)
    assert acceptance.chance > 0.9


@pytest.mark.parametrize(
    ("chances", "row", "cost", "expected"),
    [
        ([0.9], 0.0, 0.0, 8),  # nothing costs anything
        ([0.9], 0.05, 0.2, 6),
        ([0.5], 0.05, 0.2, 1),
        ([0.1], 0.05, 0.2, 0),
        ([0.99], 0.05, 1.0, 0),  # as slow as the model
        ([0.9] * 16, 0.06, 0.1, 0),  # a row costs its full time
        ([], 0.0, 0.0, 0),
    ],
)
def test_how_far_it_pays(chances: list[float], row: float, cost: float, expected: int) -> None:
    assert best_length(chances, max(len(chances), 1), row, cost, 8) == expected
