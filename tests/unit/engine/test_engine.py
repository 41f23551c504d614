"""The engine on a fake program: what a request gets does not depend on what else goes on."""

from __future__ import annotations

import numpy as np
import pytest
from fake_program import TABLE, TOKENS, FakeProgram, expected, log_probability, model_info

from legato.batch import Batch
from legato.config import EngineConfig
from legato.constraint.constraint import Constraint
from legato.engine import Engine
from legato.errors import ContextLengthError, EngineError, RequestError
from legato.request import FinishReason, Output, Request, SamplingParams


def make(num_blocks: int = 64, max_model_len: int = 1000, **settings: int) -> Engine:
    program = FakeProgram(num_blocks)
    return Engine(program, model_info(num_blocks, max_model_len), EngineConfig(**settings))


def run(engine: Engine) -> list[Output]:
    outputs = []
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
    return outputs


def tokens(outputs: list[Output], request_id: str, index: int = 0) -> list[int]:
    mine = [o for o in outputs if (o.request_id, o.index) == (request_id, index)]
    return [token for output in mine for token in output.token_ids]


def ask(id: str, prompt: list[int], **params: object) -> Request:
    return Request(
        id=id,
        prompt_token_ids=prompt,
        params=SamplingParams(**{"max_tokens": 8, **params}),
    )


def predicted(request: Request, token_ids: list[int]) -> Request:
    request.prediction_token_ids = token_ids
    return request


def test_one_request() -> None:
    engine = make()
    request = ask("a", [1, 2, 3])
    engine.add(request)
    outputs = run(engine)
    assert tokens(outputs, "a") == expected(request, 0, 1000)[0]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[0].cached_tokens == 0 and outputs[1].cached_tokens is None


def test_the_answer_can_be_continued_from_the_cache() -> None:
    engine = make()
    first = ask("a", list(range(20)), max_tokens=30)
    engine.add(first)
    answer = tokens(run(engine), "a")
    engine.add(ask("b", list(range(20)) + answer, max_tokens=5))
    outputs = run(engine)
    assert outputs[0].cached_tokens == 49  # all but the last token, the partial block included


def test_a_wholly_cached_prompt_computes_one_token() -> None:
    engine = make()
    for name in "ab":
        engine.add(ask(name, list(range(32)), max_tokens=1))
        outputs = run(engine)
    assert outputs[0].cached_tokens == 31
    assert engine.stats().last_step_tokens == 1


def test_choices_share_the_prompt() -> None:
    engine = make(num_blocks=16)
    request = ask("a", list(range(40)), n=4, temperature=1.0, seed=7)
    engine.add(request)
    outputs = [o for _ in range(2) for o in engine.step()]
    # 2 full blocks of the prompt are shared; each choice has a third of its own.
    assert engine.stats().blocks_used == 2 + 4
    assert engine.stats().last_step_tokens == 1 + 3
    outputs += run(engine)
    for index in range(4):
        assert tokens(outputs, "a", index) == expected(request, index, 1000)[0]


def test_what_choices_found_in_the_cache_is_told_of_each_and_counted_once() -> None:
    """Those that follow the first choice found what it found, and not what it has computed for them."""
    engine = make()
    for name, found in (("a", 0), ("b", 39)):
        engine.add(ask(name, list(range(40)), n=3, max_tokens=2))
        outputs = run(engine)
        assert [o.cached_tokens for o in outputs if o.cached_tokens is not None] == [found] * 3
        assert engine.stats().cached_tokens == found


def test_prompt_logprobs_are_computed_again_and_never_from_the_cache() -> None:
    engine = make(max_num_batched_tokens=7, max_num_seqs=3)
    prompt = list(range(20))
    for name in "ab":
        engine.add(ask(name, prompt, prompt_logprobs=2, logprobs=1, max_tokens=2))
        outputs = run(engine)
        assert outputs[0].cached_tokens == 0
        scores = outputs[0].prompt_logprobs
        assert scores is not None and scores[0] is None and len(scores) == 20
        for position, score in enumerate(scores[1:], start=1):
            assert score is not None and score.token_ids == [position, 0, 1]
            assert score.logprobs[0] == log_probability(prompt[:position], position)
        assert outputs[0].logprobs is not None and len(outputs[0].logprobs[0].token_ids) == 2


def test_more_urgent_requests_preempt() -> None:
    engine = make(num_blocks=4, max_num_seqs=4)
    slow = ask("slow", [1] * 30, max_tokens=30)
    slow.priority = 1
    engine.add(slow)
    engine.step()
    fast = ask("fast", [2] * 40, max_tokens=3)
    engine.add(fast)
    outputs = run(engine)
    assert engine.stats().preemptions == 1
    assert [o.request_id for o in outputs if o.finish_reason] == ["fast", "slow"]
    assert tokens(outputs, "fast") == expected(fast, 0, 64)[0]


@pytest.mark.parametrize("prompt", [3, 40])
def test_who_has_to_give_way_leaves_nothing_in_the_plan(prompt: int) -> None:
    """What a step is expected to take, and what it teaches, are counted by what it has."""
    engine = make(num_blocks=64, max_num_seqs=2, max_num_batched_tokens=16)
    for name in "ab":
        slow = ask(name, [1] * prompt, max_tokens=50)
        slow.priority = 1
        engine.add(slow)
    for _ in range(3):
        engine.step()
    for name in "cd":
        engine.add(ask(name, [2] * 5, max_tokens=3))
    parts, plan = engine._scheduler.schedule(), engine._scheduler._last
    assert [part.sequence.request.id for part in parts] == ["c", "d"]
    assert plan.num_prompt_tokens == 10 and plan.depth == 2
    assert plan.num_decode_rows == plan.num_long == 0
    assert plan.tokens_left == 16 - 10


def test_cancel_one_choice_and_then_all() -> None:
    engine = make()
    engine.add(ask("a", [1, 2], n=3, max_tokens=50))
    engine.step()
    engine.step()
    assert [(o.index, o.finish_reason) for o in engine.cancel("a", 1)] == [(1, "abort")]
    engine.check_integrity()
    assert {o.index for o in engine.step()} == {0, 2}
    assert len(engine.cancel("a")) == 2 and engine.cancel("a") == []
    assert not engine.has_work and engine.stats().blocks_used == 0


def test_a_failing_sequence_fails_alone() -> None:
    program = FakeProgram(broken=13)
    engine = Engine(program, model_info(), EngineConfig())
    good, bad = ask("good", [1, 2, 3]), ask("bad", [13, 2, 3])
    engine.add(good)
    engine.add(bad)
    outputs = engine.step()
    assert [(o.request_id, o.finish_reason) for o in outputs] == [
        ("good", None),
        ("bad", "error"),
    ]
    assert outputs[1].error == "ValueError: token_ids: broken"
    program.broken = -1
    assert tokens(outputs + run(engine), "good") == expected(good, 0, 1000)[0]


class OutOfOrder(FakeProgram):
    """No batch can be computed, whoever is in it."""

    error: Exception = ValueError("odd")

    def run(self, batch: Batch) -> tuple[np.ndarray, ...]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ValueError("odd"), EngineError, "the step failed: odd"),
        (MemoryError("no room"), MemoryError, "no room"),
    ],
)
def test_what_is_nobodys_fault_fails_nobody(
    error: Exception, raised: type[Exception], message: str
) -> None:
    """A step that fails for everybody, and memory that another process may have, are the engine's."""
    program = OutOfOrder()
    program.error = error
    engine = Engine(program, model_info(), EngineConfig())
    for name in "ab":
        engine.add(ask(name, [1, 2]))
    with pytest.raises(raised, match=message):
        engine.step()


def test_logits_that_are_not_numbers_fail_their_request_only() -> None:
    engine = Engine(FakeProgram(nan=13), model_info(), EngineConfig())
    good = ask("good", [1, 2, 3])
    engine.add(good)
    engine.add(ask("sampled", [1, 2, 13]))
    engine.add(ask("scored", [13, *range(20, 40)], prompt_logprobs=0))
    outputs = run(engine)
    assert tokens(outputs, "good") == expected(good, 0, 1000)[0]
    for name in ("sampled", "scored"):
        (failed,) = [output for output in outputs if output.request_id == name]
        assert failed.finish_reason == "error" and "not numbers" in (failed.error or "")
        assert failed.token_ids == []
    engine.check_integrity()


def test_resumed_output_goes_on_where_it_stood() -> None:
    whole = ask("a", [1, 2, 3], temperature=1.0, seed=3, max_tokens=20, frequency_penalty=0.5)
    engine = make()
    engine.add(whole)
    answer = tokens(run(engine), "a")
    for cut in (1, 19, 20):
        resumed = ask(
            "b",
            [1, 2, 3],
            temperature=1.0,
            seed=3,
            max_tokens=20,
            frequency_penalty=0.5,
        )
        resumed.output_token_ids = answer[:cut]
        engine.add(resumed)
        outputs = run(engine)
        assert tokens(outputs, "b") == answer[cut:]
        assert outputs[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask("x", []), "prompt"),
        (ask("x", [1, 50]), "prompt"),
        (ask("x", [-1]), "prompt"),
        (predicted(ask("x", [1]), [50]), "prediction"),
        (ask("taken", [1]), "request_id"),
    ],
)
def test_invalid_requests_are_refused(request_: Request, field: str) -> None:
    engine = make()
    engine.add(ask("taken", [1]))
    with pytest.raises(RequestError) as caught:
        engine.add(request_)
    assert caught.value.field == field
    run(engine)


def test_a_prompt_that_cannot_fit_is_refused() -> None:
    with pytest.raises(ContextLengthError, match="context length is 32"):
        make(num_blocks=2).add(ask("a", [1] * 32))
    with pytest.raises(ContextLengthError, match="context length is 20"):
        make(max_model_len=20).add(ask("a", [1] * 20))
    engine = make(num_blocks=2)
    engine.add(ask("a", [1] * 31))
    assert run(engine)[-1].finish_reason is FinishReason.LENGTH


def test_salts_keep_tenants_apart() -> None:
    engine = make()
    for name, salt, found in (("a", "x", 0), ("b", "y", 0), ("c", "x", 19)):
        request = ask(name, list(range(20)), max_tokens=1)
        request.cache_salt = salt
        engine.add(request)
        assert run(engine)[0].cached_tokens == found


def test_without_prefix_caching_only_choices_share() -> None:
    program = FakeProgram()
    engine = Engine(program, model_info(), EngineConfig(enable_prefix_caching=False))
    for name in "ab":
        engine.add(ask(name, list(range(20)), n=2, max_tokens=1))
        assert run(engine)[0].cached_tokens == 0
    assert program.rows == [20, 1, 20, 1]


def test_a_failed_first_step_leaves_nothing_wrong_in_the_cache() -> None:
    """Its copied tail never reached the cache, so it must not be found there."""
    program = FakeProgram()
    engine = Engine(program, model_info(), EngineConfig())
    engine.add(ask("a", list(range(20)), max_tokens=1))
    run(engine)
    program.broken = 13
    other = ask("other", [2, 3])
    engine.add(ask("bad", [*range(18), 13]))
    engine.add(other)
    assert {o.request_id: o.finish_reason for o in engine.step()} == {"bad": "error", "other": None}
    program.broken = -1
    engine.check_integrity()
    again = ask("again", [*range(18), 13])
    engine.add(again)
    assert tokens(run(engine), "again") == expected(again, 0, 1000)[0]


def test_when_the_first_choice_is_cancelled_another_one_computes_the_prompt() -> None:
    program = FakeProgram()
    engine = Engine(program, model_info(), EngineConfig(max_num_batched_tokens=20))
    request = ask("a", list(range(40)), n=3)
    engine.add(request)
    engine.step()
    engine.cancel("a", 0)
    engine.check_integrity()
    outputs = run(engine)
    assert program.rows[:4] == [20, 20, 2, 2]  # the second choice goes on from what was computed
    for index in (1, 2):
        assert tokens(outputs, "a", index) == expected(request, index, 1000)[0]


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    program = FakeProgram()
    engine = Engine(program, model_info(), EngineConfig(max_num_batched_tokens=50))
    for name in "abcd":
        engine.add(ask(name, list(range(40)) * 2 + [ord(name) % 10], max_tokens=1))
    engine.add(ask("other", [1] * 20, max_tokens=1))
    outputs = run(engine)
    # The others wait until 80 tokens are computed (in two steps), and share 5 blocks of them.
    assert program.rows == [50, 31 + 19, 1 + 3]
    assert [o.cached_tokens for o in outputs] == [0, 0, 80, 80, 80]


def test_a_preemption_in_vain_leaves_a_step_for_the_others() -> None:
    """Found by the random schedules."""
    engine = make(num_blocks=3, max_model_len=20, max_num_seqs=2, max_num_batched_tokens=3)
    scored = ask("scored", list(range(16)), prompt_logprobs=0, max_tokens=1)
    scored.priority = 1
    engine.add(scored)
    engine.step()
    engine.add(ask("short", [1], max_tokens=1))
    engine.add(ask("long", [1, 2, 3, *range(16)], max_tokens=1))
    while engine.has_work:
        assert engine.step() or engine.stats().last_step_tokens
        engine.check_integrity()
    assert engine.stats().preemptions == 1


def test_a_block_that_a_rejected_draft_took_is_the_sequences_own() -> None:
    """Two sequences whose drafts reach into the next block, decoding on into it side by side."""
    engine = make()
    engine.describe(TABLE)
    requests = []
    for name, first in (("a", 1), ("b", 2)):
        request = ask(name, [first] * 14, max_tokens=40)
        request.draft_token_ids = [first, first, first]
        request.pending = TOKENS[first] * 3
        requests.append(request)
        engine.add(request)
    outputs = run(engine)
    for request in requests:
        assert tokens(outputs, request.id) == expected(request, 0, 1000)[0]


def test_a_constraint_that_cannot_go_on_ends_its_sequence_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the field that the grammar came with."""

    def refuse(self: Constraint, token: int) -> bool:
        raise RequestError("the grammar cannot go on")

    monkeypatch.setattr(Constraint, "accept", refuse)
    engine = make()
    engine.describe(TABLE)
    healed, other = ask("a", [1, 2, 3]), ask("b", [4, 5, 6])
    healed.pending, healed.grammar_field = b"g", "guided_regex"
    engine.add(healed)
    engine.add(other)
    outputs = run(engine)
    assert tokens(outputs, "b") == expected(other, 0, 1000)[0]
    (failed,) = [output for output in outputs if output.error]
    assert failed.request_id == "a" and failed.error == "the grammar cannot go on"
    assert failed.error_field == "guided_regex"
