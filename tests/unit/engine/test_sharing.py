"""What is computed once, and held once: prefixes of requests that arrive together, choices, the queue."""

from __future__ import annotations

import tracemalloc

import pytest
from fake_program import FakeProgram, expected, model_info
from test_engine import ask, run, tokens

from legato.config import EngineConfig
from legato.engine import Engine

SHARED = [1 + (7 * i + i // 11) % 49 for i in range(1024)]


@pytest.mark.parametrize("budget", [64, 512, 2048])
@pytest.mark.parametrize("others_decode", [False, True])
def test_sixteen_requests_that_arrive_together_compute_their_prefix_once(
    budget: int, others_decode: bool
) -> None:
    program = FakeProgram(400)
    engine = Engine(
        program,
        model_info(400, 2000),
        EngineConfig(max_num_batched_tokens=budget, speculative_config="off"),
    )
    before = 0
    if others_decode:
        engine.add(ask("other", [49, 48], max_tokens=400))
        engine.step()
        before = 2
    requests = [ask(str(i), SHARED + [1 + i, 2 + i, 3 + i], max_tokens=2) for i in range(16)]
    for request in requests:
        engine.add(request)
    outputs = run(engine)
    for request in requests:
        assert tokens(outputs, request.id) == expected(request, 0, 2000)[0]
    generated = engine.stats().generation_tokens
    own = 16 * 3 + before
    # Every token but the last of each answer is computed, and nothing twice.
    assert sum(program.rows) == len(SHARED) + own + generated - 16 - others_decode


def test_the_same_while_the_queue_is_longer_than_there_are_places() -> None:
    program = FakeProgram(400)
    config = EngineConfig(max_num_seqs=4, max_num_batched_tokens=256)
    engine = Engine(program, model_info(400, 2000), config)
    for i in range(32):
        engine.add(ask(str(i), [*SHARED, 1 + i], max_tokens=1))
    run(engine)
    assert sum(program.rows) == len(SHARED) + 32


def test_choices_hold_the_prompt_once() -> None:
    engine = Engine(FakeProgram(200), model_info(200, 2000), EngineConfig())
    engine.add(ask("a", SHARED + [5], n=8, max_tokens=4))
    most = 0
    while engine.has_work:
        engine.step()
        engine.check_integrity()
        most = max(most, engine.stats().blocks_used)
    assert most == len(SHARED) // 16 + 8  # one of its own for each


def test_what_waits_costs_bytes_and_no_blocks() -> None:
    engine = Engine(FakeProgram(64), model_info(64), EngineConfig(max_num_seqs=2))
    prompt = [1 + i % 49 for i in range(512)]
    engine.add(ask("warm", prompt))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(4096):
        engine.add(ask(str(i), list(prompt), max_tokens=400))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert engine.stats().waiting == 4097 and engine.stats().blocks_used == 0
    assert (after - before) / 4096 < 4 * 512 + 2000  # four bytes a token, and a little
    engine.step()
    assert engine.stats().blocks_used <= 2 * 512 // 16 + 2
