"""Who runs beside whom, who waits for whom, and what is not computed a second time."""

from __future__ import annotations

import pytest
from fake_program import FakeProgram, expected, model_info
from test_engine import ask, run, tokens

from legato.config import EngineConfig
from legato.engine import Engine
from legato.request import Output, Progress

PROMPT = [1 + i % 40 for i in range(80)]


def engine_of(num_blocks: int = 64, **settings: int) -> tuple[Engine, FakeProgram]:
    program = FakeProgram(num_blocks)
    return Engine(program, model_info(num_blocks), EngineConfig(**settings)), program


def ends(outputs: list[Output]) -> list[str]:
    return [output.request_id for output in outputs if output.finish_reason]


def test_who_would_soon_be_in_the_way_is_not_admitted() -> None:
    """A block for each that runs stays free, or the newcomer would have to give its own back at once."""
    engine, _ = engine_of(num_blocks=4)
    first = ask("first", [1] * 10, max_tokens=20)
    second = ask("second", [2] * 40, max_tokens=5)
    engine.add(first)
    engine.step()
    engine.add(second)
    outputs = run(engine)
    assert engine.stats().preemptions == 0 and ends(outputs) == ["first", "second"]
    assert tokens(outputs, "second") == expected(second, 0, 1000)[0]


@pytest.mark.parametrize(("shared", "waits"), [(16, False), (32, False), (48, True), (64, True)])
def test_who_shares_at_least_half_with_another_waits_for_it(shared: int, *, waits: bool) -> None:
    """Who shares less is served sooner when it begins at once."""
    engine, program = engine_of(max_num_batched_tokens=100)
    engine.add(ask("first", PROMPT, max_tokens=1))
    engine.add(ask("second", PROMPT[:shared] + [49] * (80 - shared), max_tokens=1))
    run(engine)
    assert program.rows == ([80, 80 - shared] if waits else [100, 60])


def test_who_waits_for_what_it_shares_loses_its_place_to_nobody() -> None:
    engine, _ = engine_of(max_num_batched_tokens=100, max_num_seqs=2)
    engine.add(ask("first", PROMPT, max_tokens=20))
    engine.add(ask("alike", [*PROMPT, 7], max_tokens=3))
    engine.add(ask("other", [49] * 10, max_tokens=3))
    assert ends(run(engine)) == ["alike", "other", "first"]


def test_a_prompt_that_was_scored_is_not_computed_again_after_a_preemption() -> None:
    engine, program = engine_of(max_num_seqs=1)
    scored = ask("scored", PROMPT, prompt_logprobs=0, max_tokens=5)
    scored.priority = 1
    engine.add(scored)
    outputs: list[Output] = []
    while not outputs:
        outputs += engine.step()
    engine.add(ask("urgent", [49], max_tokens=1))
    outputs += run(engine)
    assert engine.stats().preemptions == 1
    assert tokens(outputs, "scored") == expected(scored, 0, 1000)[0]
    assert sum(program.rows) == 80 + 4 + 1


def test_a_prompt_whose_scores_were_told_is_not_computed_for_them_in_another_engine() -> None:
    engine, program = engine_of()
    engine.add(ask("before", PROMPT, max_tokens=1))
    run(engine)
    request = ask("a", PROMPT, prompt_logprobs=0, max_tokens=4)
    answer = expected(request, 0, 1000)[0]
    request.progress = [Progress(index=0, token_ids=answer[:1], is_announced=True)]
    engine.add(request)
    outputs = run(engine)
    assert answer[:1] + tokens(outputs, "a") == answer
    assert not any(output.prompt_logprobs for output in outputs)
    assert program.rows == [80, 1, 1, 1]
