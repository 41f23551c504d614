"""Guessing ahead on a real model: fewer steps, the same tokens, the same log-probabilities in bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from legato import models
from legato.asking import spellings_of
from legato.config import EngineConfig
from legato.constraint.tokens import TokenTable
from legato.drafting.pace import Pace
from legato.engine import Engine
from legato.models.loading import LoadedModel
from legato.request import FinishReason, Request, SamplingParams, TokenLogprobs
from legato.text.grammar import json_schema
from legato.text.tokenizer import Tokenizer, load_tokenizer
from legato.weights import hub

CODE = '''def area(shape):
    """The area of a shape."""
    if shape.kind == "circle":
        return 3.14159 * shape.radius * shape.radius
    if shape.kind == "square":
        return shape.side * shape.side
    raise ValueError(f"unknown shape: {shape.kind}")
'''
QUESTION = (
    f"<|im_start|>user\nRepeat this code:\n```python\n{CODE}```<|im_end|>\n"
    "<|im_start|>assistant\n```python\n"
)
SCHEMA = {
    "type": "array",
    "minItems": 6,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    },
}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.6},
    "several": {"temperature": 0.8, "n": 3, "top_p": 0.9},
    "penalised": {"temperature": 0.4, "repetition_penalty": 1.05, "frequency_penalty": 0.1},
    "greedy, penalised": {"temperature": 0.0, "presence_penalty": 0.2},
    "biased": {"temperature": 0.0, "logit_bias": {30: 3.0}, "min_tokens": 90},
    "scored": {"temperature": 0.0, "logprobs": 3, "prompt_logprobs": 1},
}


@cache
def loaded() -> tuple[LoadedModel, Tokenizer]:
    config = EngineConfig(model="smollm2", kv_cache_memory=2**28)
    return models.load(config), load_tokenizer(hub.resolve("smollm2").path)


@pytest.fixture(autouse=True, scope="module")
def unload() -> Iterator[None]:
    yield
    loaded.cache_clear()


class Eager(Pace):
    """Guesses cost nothing: as many as possible are made."""

    def row_cost(self, rows: int) -> float:
        return 0.0


def ask(id: str = "r", **fields: Any) -> Request:
    _, tokenizer = loaded()
    params = {"max_tokens": 120, "seed": 11, "logprobs": 0, **fields.pop("params", {})}
    return Request(
        id=id,
        prompt_token_ids=tokenizer.encode(QUESTION),
        eos_token_ids=tokenizer.eos_token_ids,
        params=SamplingParams(**params),
        **fields,
    )


Answers = dict[tuple[str, int], list[tuple[int, TokenLogprobs]]]


class Run:
    """Requests on a new engine: tokens with their scores, and how many steps it took."""

    def __init__(self, *requests: Request, speculates: bool) -> None:
        model, tokenizer = loaded()
        config = EngineConfig(speculative_config="{}" if speculates else "off")
        engine = Engine(model.program, model.info, config, Eager())
        engine.describe(TokenTable(spellings_of(tokenizer, model.info)))
        for request in requests:
            engine.add(request)
        self.answers: Answers = {}
        while engine.has_work:
            for output in engine.step():
                assert output.finish_reason is not FinishReason.ERROR, output.error
                scored = zip(output.token_ids, output.logprobs or [], strict=True)
                self.answers.setdefault((output.request_id, output.index), []).extend(scored)
            engine.check_integrity()
        self.steps = engine.stats().steps

    def text(self, id: str = "r") -> str:
        return loaded()[1].decode([token for token, _ in self.answers[id, 0]])


@pytest.mark.parametrize("way", WAYS)
def test_the_answer_is_the_same(way: str) -> None:
    _, tokenizer = loaded()
    prediction = tokenizer.encode(CODE.replace("shape", "figure", 2), add_special_tokens=False)
    plain = Run(ask(params=WAYS[way]), speculates=False)
    for predicted in ([], prediction):
        guessed = Run(ask(params=WAYS[way], prediction_token_ids=predicted), speculates=True)
        assert guessed.answers == plain.answers
        if way == "greedy":
            assert guessed.steps < 0.5 * plain.steps, guessed.text()


def test_together_in_one_batch() -> None:
    requests = [ask(way, params=params) for way, params in WAYS.items()]
    plain, guessed = Run(*requests, speculates=False), Run(*requests, speculates=True)
    assert guessed.answers == plain.answers
    assert guessed.steps < plain.steps


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_under_a_grammar(temperature: float) -> None:
    grammar = json_schema(json.dumps(SCHEMA), "schema")
    request = ask(grammar=grammar, params={"temperature": temperature, "n": 2})
    plain, guessed = Run(request, speculates=False), Run(request, speculates=True)
    assert guessed.answers == plain.answers
    assert guessed.steps < plain.steps


def test_healed() -> None:
    _, tokenizer = loaded()
    given = tokenizer.encode('def area(shape):\n    """', add_special_tokens=False)
    request = ask(output_token_ids=given, pending=b"The ar", params={"temperature": 0.0})
    plain, guessed = Run(request, speculates=False), Run(request, speculates=True)
    assert guessed.answers == plain.answers
    assert guessed.steps < plain.steps


def test_a_pace_that_is_learned() -> None:
    """What pays is decided by the clock; the answers are not."""
    model, _ = loaded()
    request = ask(params={"temperature": 0.0})
    engine = Engine(model.program, model.info, EngineConfig())
    engine.add(request)
    tokens = [token for _ in iter(lambda: engine.has_work, False) for token in _tokens(engine)]
    plain = Run(request, speculates=False)
    assert tokens == [token for token, _ in plain.answers["r", 0]]


def _tokens(engine: Engine) -> list[int]:
    return [token for output in engine.step() for token in output.token_ids]
