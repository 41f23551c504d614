"""Random schedules on tiny pools: the pool balances after every operation, and every request gets
what it would get alone."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from fake_program import (
    TABLE,
    TOKENS,
    VOCAB,
    FakeModel,
    FakeProgram,
    OftenRight,
    expected,
    log_probability,
    model_info,
)
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from legato.config import EngineConfig
from legato.drafting.pace import Pace
from legato.engine import Engine
from legato.errors import ContextLengthError
from legato.request import FinishReason, Output, Request, SamplingParams

# Prompts are made of few pieces, so that prefixes meet, part and end in the middle of blocks.
PIECES = [[1, 2, 3], list(range(16)), [7] * 20, [1, 2, 3, 4] * 4, list(range(30, 41))]
prompts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(lambda p: sum(p, []))
sampling = st.fixed_dictionaries(
    {
        "n": st.sampled_from([1, 1, 1, 2, 3]),
        "max_tokens": st.sampled_from([1, 2, 5, 20, 40, None]),
        "temperature": st.sampled_from([0.0, 0.5]),
        "seed": st.integers(0, 3),
    },
    optional={
        "min_tokens": st.integers(0, 6),
        "stop_token_ids": st.just([5, 6]),
        "ignore_eos": st.booleans(),
        "repetition_penalty": st.just(1.5),
        "presence_penalty": st.just(0.5),
        "frequency_penalty": st.just(-0.5),
        "top_k": st.sampled_from([-1, 4]),
        "logit_bias": st.just({3: 5.0, 4: -100.0}),
        "allowed_token_ids": st.just([1, 2, 3, 5, 33, 49]),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
    },
)


class Free(Pace):
    """Guesses cost nothing, a step is slow, and prompts enter in pieces of any size."""

    def __init__(self, chunk: int) -> None:
        super().__init__()
        self._chunk = chunk

    def row_cost(self, rows: int) -> float:
        return 0.0

    def seconds(self, rows: int) -> float:
        return 10.0

    def prompt_tokens(self, decoding: int, entering: int, most: int, depth: int = 0) -> int:
        return min(most, self._chunk)


class Schedules(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(2, 14),
        sequences=st.integers(1, 6),
        tokens=st.integers(1, 40),
        caching=st.sampled_from([True, True, True, False]),
        length=st.sampled_from([20, 100, 1000]),
        chunk=st.sampled_from([1, 5, 1000]),
        most=st.sampled_from([0, 1, 3, 15]),
        draft_blocks=st.sampled_from([0, 0, 2, 5, 14]),
        step_time=st.sampled_from([None, None, 1.0]),
    )
    def start(
        self,
        num_blocks: int,
        sequences: int,
        tokens: int,
        caching: bool,
        length: int,
        chunk: int,
        most: int,
        draft_blocks: int,
        step_time: float | None,
    ) -> None:
        config = EngineConfig(
            max_num_seqs=sequences,
            max_num_batched_tokens=tokens,
            enable_prefix_caching=caching,
            step_time_target_ms=step_time,
            speculative_config=json.dumps({"num_speculative_tokens": most}),
        )
        self.config = config
        self.program = FakeProgram(num_blocks)
        draft = None
        if draft_blocks:
            draft = FakeModel(OftenRight(draft_blocks), model_info(draft_blocks, length // 2))
        info = model_info(num_blocks, length)
        self.engine = Engine(self.program, info, config, Free(chunk), draft)
        self.engine.describe(TABLE)
        self.requests: dict[str, Request] = {}
        self.outputs: dict[tuple[str, int], list[Output]] = {}
        self.answers: list[list[int]] = [[1]]  # prompts with what came back

    @rule(
        prompt=prompts,
        params=sampling,
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        salt=st.sampled_from(["", "", "", "other"]),
        eos=st.sampled_from([[], [0, 9]]),
    )
    def add(
        self,
        prompt: list[int],
        params: dict[str, object],
        priority: int,
        salt: str,
        eos: list[int],
    ) -> None:
        request = Request(
            id=str(len(self.requests)),
            prompt_token_ids=prompt,
            params=SamplingParams(**params),
            eos_token_ids=eos,
            priority=priority,
            cache_salt=salt,
        )
        self.submit(request)

    @rule(which=st.integers(0, 100), priority=st.integers(-2, 2))
    def rank(self, which: int, priority: int) -> None:
        """A request gets another priority: open, finished or never heard of."""
        self.engine.rank(str(which % (len(self.requests) + 1)), priority)

    @rule(which=st.integers(0, 100), cut=st.integers(0, 30), params=sampling)
    def continue_an_answer(self, which: int, cut: int, params: dict[str, object]) -> None:
        answer = self.answers[which % len(self.answers)]
        prompt = answer[: max(len(answer) - cut, 1)]
        self.submit(
            Request(
                id=str(len(self.requests)),
                prompt_token_ids=prompt,
                params=SamplingParams(**params),
            )
        )

    @rule(which=st.integers(0, 100), cut=st.integers(1, 30))
    def resume(self, which: int, cut: int) -> None:
        """The same request again, with a part of its output given."""
        ended = [
            (key, outputs)
            for key, outputs in self.outputs.items()
            if outputs and outputs[-1].finish_reason == FinishReason.LENGTH
        ]
        if not ended:
            return
        (request_id, index), _ = ended[which % len(ended)]
        old = self.requests[request_id]
        params = old.params
        fields = {name: getattr(params, name) for name in params.__struct_fields__}
        fields |= {"n": 1, "seed": (params.seed or 0) + index}
        tokens, _ = expected(old, index, self.engine.max_model_len)
        self.submit(
            Request(
                id=str(len(self.requests)),
                prompt_token_ids=old.prompt_token_ids,
                params=SamplingParams(**fields),
                eos_token_ids=old.eos_token_ids,
                output_token_ids=tokens[: max(len(tokens) - cut, 0)],
            )
        )

    @rule(
        which=st.integers(0, 100),
        cut=st.integers(0, 6),
        text=st.text("abcdefg", min_size=1, max_size=5),
        drafted=st.booleans(),
        given=st.integers(0, 3),
        params=sampling,
    )
    def heal(
        self,
        which: int,
        cut: int,
        text: str,
        drafted: bool,
        given: int,
        params: dict[str, object],
    ) -> None:
        """The first new tokens spell ``text``, which an answer may have written, or not."""
        answer = self.answers[which % len(self.answers)]
        known = answer[: max(len(answer) - cut, 1)]
        dropped = [id for id in answer[len(known) :] if id]
        pending = b"".join(TOKENS[id] for id in dropped)[: len(text)] if drafted else text.encode()
        params = {
            k: v for k, v in params.items() if k not in ("allowed_token_ids", "prompt_logprobs")
        }
        split = max(len(known) - given, 1)
        if params.get("max_tokens") is not None:
            params["max_tokens"] += len(known) - split
        self.submit(
            Request(
                id=str(len(self.requests)),
                prompt_token_ids=known[:split],
                output_token_ids=known[split:],
                params=SamplingParams(**params),
                pending=pending,
                draft_token_ids=dropped if drafted else [],
                eos_token_ids=[0],
            )
        )

    @rule(
        prompt=prompts,
        params=sampling,
        start=st.integers(0, 3),
        wrong=st.sets(st.integers(0, 40), max_size=4),
        left_out=st.sets(st.integers(0, 40), max_size=4),
        eos=st.sampled_from([[], [0, 9]]),
    )
    def predict(
        self,
        prompt: list[int],
        params: dict[str, object],
        start: int,
        wrong: set[int],
        left_out: set[int],
        eos: list[int],
    ) -> None:
        """Most of the answer is known beforehand."""
        request = Request(
            id=str(len(self.requests)),
            prompt_token_ids=prompt,
            params=SamplingParams(**params),
            eos_token_ids=eos,
        )
        length = min(self.engine.max_model_len, len(prompt) + 60)
        answer = expected(request, 0, length)[0] if length > len(prompt) else []
        request.prediction_token_ids = [
            (token + 1) % VOCAB if place in wrong else token
            for place, token in enumerate(answer[start:])
            if place not in left_out
        ]
        self.submit(request)

    def submit(self, request: Request) -> None:
        try:
            self.engine.add(request)
        except ContextLengthError:
            known = len(request.prompt_token_ids) + len(request.output_token_ids)
            assert known >= self.engine.max_model_len
            return
        self.requests[request.id] = request
        for index in range(request.params.n):
            self.outputs[request.id, index] = []

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.take(self.engine.step())
            self.engine.check_integrity()

    @rule(which=st.integers(0, 100), index=st.sampled_from([None, None, 0, 1, 2]))
    def cancel(self, which: int, index: int | None) -> None:
        if self.requests:
            ids = list(self.requests)
            self.take(self.engine.cancel(ids[which % len(ids)], index))

    @rule()
    def clear_cache(self) -> None:
        self.engine.clear_cache()

    @precondition(lambda self: hasattr(self, "engine"))
    @invariant()
    def pool_balances(self) -> None:
        self.engine.check_integrity()

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            mine = self.outputs[output.request_id, output.index]
            assert not mine or mine[-1].finish_reason is None, "an output after the last"
            mine.append(output)
            if output.finish_reason == FinishReason.LENGTH:
                request = self.requests[output.request_id]
                tokens = [t for o in mine for t in o.token_ids]
                self.answers.append(request.prompt_token_ids + request.output_token_ids + tokens)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if not self.engine.has_work:
                break
            self.take(self.engine.step())
            self.engine.check_integrity()
        assert not self.engine.has_work
        assert self.engine.stats().blocks_used == 0
        assert max(self.program.rows, default=0) <= self.config.max_num_batched_tokens
        for (request_id, index), outputs in self.outputs.items():
            self.compare(self.requests[request_id], index, outputs)

    def compare(self, request: Request, index: int, outputs: list[Output]) -> None:
        tokens, reason = expected(request, index, self.engine.max_model_len)
        tokens = tokens[len(request.output_token_ids) :]
        got = [token for output in outputs for token in output.token_ids]
        if outputs[-1].finish_reason == FinishReason.ABORT:
            assert got == tokens[: len(got)]
            return
        assert got == tokens
        assert outputs[-1].finish_reason == reason
        assert [o.cached_tokens is not None for o in outputs] == [True] + [False] * (
            len(outputs) - 1
        )
        self.compare_logprobs(request, index, outputs, got)

    def compare_logprobs(
        self, request: Request, index: int, outputs: list[Output], got: list[int]
    ) -> None:
        known = request.prompt_token_ids + request.output_token_ids
        scores = [score for output in outputs for score in output.logprobs or []]
        if request.params.logprobs is not None:
            assert [s.token_ids[0] for s in scores] == got
            for i, score in enumerate(scores):
                assert len(score.token_ids) == 1 + request.params.logprobs
                context = known + got[:i]
                assert score.logprobs[0] == log_probability(context, got[i])
        prompt = outputs[0].prompt_logprobs
        assert (prompt is not None) == (request.params.prompt_logprobs is not None and index == 0)
        for i, scored in enumerate(prompt or []):
            if scored is not None:
                expected_score = log_probability(known[:i], known[i])
                assert scored.token_ids[0] == known[i] and scored.logprobs[0] == expected_score


Schedules.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
test_random_schedules = pytest.mark.filterwarnings("ignore")(Schedules.TestCase)
assert VOCAB > 49
