"""A sequence's logits are the same bits whatever else happens: alone or in a batch, in any chunks,
from a cold or a warm cache, preempted or not, resumed or not, with any number of threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

import msgspec
import pytest

from legato import models
from legato.batch import Batch
from legato.config import EngineConfig
from legato.engine import Engine
from legato.models.loading import LoadedModel
from legato.request import Output, Request, SamplingParams

Hashes = dict[tuple[int, int], int]  # (seed, position) -> hash of the logits' bits, in this process
OUTPUT = 8
COUNT = 64  # requests of the mixed batch; the first TRACKED are compared
TRACKED = 10
BLOCKS = 1000
LENGTHS = [60, 150, 1, 17, 33, 16, 100]


class Recorder:
    """Runs batches and keeps the hash of each logit row under its sequence's seed."""

    def __init__(self, model: LoadedModel) -> None:
        self.program = model.program
        self.hashes: Hashes = {}

    def run(self, batch: Batch) -> tuple[object, ...]:
        result = self.program.run(batch)
        self.keep(batch)
        return result

    def decoding(self, batch: Batch) -> Recorded:
        return Recorded(self, batch)

    def keep(self, batch: Batch) -> None:
        positions = batch.positions[batch.logit_rows].tolist()
        keys = zip(batch.sampling.seed.tolist(), positions, strict=True)
        for key, logits in zip(keys, self.program.logits(), strict=True):
            value = hash(logits.tobytes())
            assert self.hashes.setdefault(key, value) == value


class Recorded:
    """What goes on with a batch, recorded."""

    def __init__(self, recorder: Recorder, batch: Batch) -> None:
        self.recorder, self.batch = recorder, batch
        self.decoding = recorder.program.decoding(batch)

    def step(self, tokens: list[int]) -> list[int]:
        drawn = self.decoding.step(tokens)
        self.recorder.keep(self.batch)
        return drawn


@cache
def loaded(name: str, threads: int) -> LoadedModel:
    model, _, kv = name.partition(" ")
    return models.load(
        EngineConfig(
            model=model, threads=threads, kv_cache_memory=2**29, kv_cache_dtype=kv or "auto"
        )
    )


@pytest.fixture(scope="module", params=["smollm2", "smollm2 int8", "gemma3-270m"])
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    loaded.cache_clear()


def make_requests() -> list[Request]:
    """Prompts of 1 to 150 tokens; greedy, sampled, penalised and scored ones."""
    source = random.Random(5)
    kinds: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "logprobs": 2},
        {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.2},
        {"temperature": 0.0, "prompt_logprobs": 0},
        {"temperature": 1.3, "min_p": 0.02, "min_tokens": 4, "logit_bias": {30: 2.0}},
    ]
    requests = []
    for index in range(COUNT):
        length = LENGTHS[index % len(LENGTHS)]
        kind = kinds[index % len(kinds)]
        requests.append(
            Request(
                id=str(index),
                prompt_token_ids=[source.randrange(40_000) for _ in range(length)],
                params=SamplingParams(max_tokens=OUTPUT, seed=1000 + index, **kind),
            )
        )
    return requests


class Run:
    """Requests on a new engine: their tokens, and the hashes of their logits."""

    def __init__(self, model: LoadedModel, *, blocks: int = BLOCKS, **settings: int) -> None:
        self.recorder = Recorder(model)
        info = msgspec.structs.replace(model.info, num_blocks=min(blocks, model.info.num_blocks))
        self.engine = Engine(self.recorder, info, EngineConfig(**settings))
        self.tokens: dict[str, list[int]] = {}

    def serve(self, requests: list[Request]) -> Run:
        for request in requests:
            self.engine.add(request)
        while self.engine.has_work:
            self.take(self.engine.step())
        return self

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
        self.engine.check_integrity()

    def hashes_of(self, request: Request) -> dict[int, int]:
        """By position."""
        seed = request.params.seed
        return {at: value for (owner, at), value in self.recorder.hashes.items() if owner == seed}


@cache
def alone(name: str) -> list[tuple[Request, list[int], dict[int, int]]]:
    """The truth: each request by itself on an empty cache with one thread."""
    truth = []
    for request in make_requests()[:TRACKED]:
        run = Run(loaded(name, 1)).serve([request])
        truth.append((request, run.tokens[request.id], run.hashes_of(request)))
    return truth


def compare(name: str, run: Run) -> None:
    for request, tokens, hashes in alone(name):
        assert run.tokens[request.id] == tokens, request.params
        assert run.hashes_of(request) == hashes, request.params


def test_hashes_tell_sequences_apart(name: str) -> None:
    values = [value for _, _, hashes in alone(name) for value in hashes.values()]
    assert len(set(values)) == len(values)
    scored = next(item for item in alone(name) if item[0].params.prompt_logprobs is not None)
    assert len(scored[2]) == len(scored[0].prompt_token_ids) + OUTPUT - 1


@pytest.mark.parametrize("threads", [1, 2])
def test_in_a_batch_of_64(name: str, threads: int) -> None:
    compare(name, Run(loaded(name, threads)).serve(make_requests()))


def test_beside_others_with_the_same_beginning(name: str) -> None:
    """What lies in the same blocks is computed for all of them at once."""
    source = random.Random(6)
    common = [source.randrange(40_000) for _ in range(270)]
    requests = [
        Request(
            id=str(index),
            prompt_token_ids=common[: 270 - index % 3]
            + [source.randrange(40_000) for _ in range(1 + 9 * index % 40)],
            params=SamplingParams(max_tokens=OUTPUT, temperature=0.8, seed=500 + index),
        )
        for index in range(20)
    ]
    together = Run(loaded(name, 2)).serve(requests)
    assert together.engine.stats().cached_tokens >= 19 * 256
    for request in requests[:6]:
        alone = Run(loaded(name, 1)).serve([request])
        assert alone.tokens[request.id] == together.tokens[request.id]
        assert alone.hashes_of(request) == together.hashes_of(request)


@pytest.mark.parametrize("chunk", [3, 16, 100])
def test_in_chunks(name: str, chunk: int) -> None:
    run = Run(loaded(name, 2), max_num_batched_tokens=chunk)
    compare(name, run.serve(make_requests()[:TRACKED]))


def test_from_a_warm_cache(name: str) -> None:
    """Prefixes that others computed, of any length, partial blocks included."""
    run = Run(loaded(name, 2))
    for request in make_requests()[:TRACKED]:
        for share in (3, 2):
            prompt = request.prompt_token_ids[
                : len(request.prompt_token_ids) * (share - 1) // share
            ]
            if prompt:
                params = SamplingParams(max_tokens=4, temperature=1.0, seed=share)
                run.recorder.hashes.clear()  # the warming requests share their seeds
                run.serve([Request(id="warm", prompt_token_ids=prompt, params=params)])
    run.recorder.hashes.clear()
    compare(name, run.serve(make_requests()[:TRACKED]))
    assert run.engine.stats().cached_tokens > 100


def test_across_preemption(name: str) -> None:
    """Each request is more urgent than those before it, in a pool for two or three."""
    run = Run(loaded(name, 2), blocks=14, max_num_batched_tokens=64)
    for urgency, request in enumerate(make_requests()[:TRACKED]):
        run.engine.add(msgspec.structs.replace(request, priority=-urgency))
        for _ in range(3):
            run.take(run.engine.step())
    compare(name, run.serve([]))
    assert run.engine.stats().preemptions > 3


def test_resumed_in_the_middle(name: str) -> None:
    """Tokens that were given as output count as output; the cache may be cold or warm."""
    run = Run(loaded(name, 2))
    for cut in (1, OUTPUT - 1):
        run.recorder.hashes.clear()
        for request, tokens, hashes in alone(name):
            resumed = msgspec.structs.replace(
                request, id=f"{request.id} {cut}", output_token_ids=tokens[:cut]
            )
            run.serve([resumed])
            assert run.tokens[resumed.id] == tokens[cut:]
            assert run.hashes_of(request).items() <= hashes.items()


def test_choices_are_what_single_requests_are(name: str) -> None:
    prompt = make_requests()[6].prompt_token_ids
    params = SamplingParams(n=4, max_tokens=OUTPUT, temperature=1.0, seed=77)
    together = Run(loaded(name, 2)).serve([Request(id="a", prompt_token_ids=prompt, params=params)])
    for index in range(4):
        single = msgspec.structs.replace(params, n=1, seed=77 + index)
        request = Request(id="a", prompt_token_ids=prompt, params=single)
        run = Run(loaded(name, 1)).serve([request])
        assert run.hashes_of(request).items() <= together.hashes_of(request).items()
