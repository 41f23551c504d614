"""Constrained answers of a real model: drafts change the steps, never the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest

from legato import models
from legato.answer import spellings_of
from legato.config import EngineConfig
from legato.constraint.tokens import TokenTable
from legato.engine import Engine
from legato.models.loading import LoadedModel
from legato.request import FinishReason, Request, SamplingParams, Thinking
from legato.sequence import Sequence
from legato.text.tokenizer import Tokenizer, load_tokenizer
from legato.weights import hub

QUESTION = "<|im_start|>user\nDescribe a person as JSON.<|im_end|>\n<|im_start|>assistant\n"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
NAMES = (
    "healed",
    "healed, penalised",
    "grammar",
    "grammar, begun",
    "grammar, healed",
    "grammar, min_tokens",
    "budget",
    "budget, grammar",
)
GRAMMAR = f"start: %json {json.dumps(SCHEMA)}"


@cache
def loaded() -> tuple[LoadedModel, Tokenizer]:
    config = EngineConfig(model="smollm2", kv_cache_memory=2**28)
    return models.load(config), load_tokenizer(hub.resolve("smollm2").path)


@pytest.fixture(autouse=True, scope="module")
def unload() -> Iterator[None]:
    yield
    loaded.cache_clear()


@cache
def requests() -> dict[str, Request]:
    _, tokenizer = loaded()

    def ask(
        given: str = "",
        pending: str = "",
        thought: str = "",
        params: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Request:
        defaults = {"max_tokens": 48, "temperature": 1.0, "seed": 11, "n": 3, "logprobs": 1}
        words = tokenizer.encode(given, add_special_tokens=False) if given else []
        draft = tokenizer.encode(pending, add_special_tokens=False) if pending else []
        return Request(
            id="r",
            prompt_token_ids=tokenizer.encode(QUESTION + thought),
            output_token_ids=words,
            pending=pending.encode(),
            draft_token_ids=draft,
            grammar_text=given.encode(),
            eos_token_ids=tokenizer.eos_token_ids,
            params=SamplingParams(**defaults | (params or {})),
            **fields,
        )

    def thinking(budget: int | None) -> Thinking:
        return Thinking(
            opening=b"<think>",
            closing=b"</think>",
            is_open=True,
            budget=budget,
            closing_ids=tokenizer.encode("\n</think>\n\n", add_special_tokens=False),
        )

    made = {
        "healed": ask("The person is", " a tal"),
        "healed, penalised": ask(
            "The person is", " a tall, tal", params={"presence_penalty": 1.5, "min_tokens": 30}
        ),
        "grammar": ask(grammar=GRAMMAR),
        "grammar, begun": ask('{"name": "', grammar=GRAMMAR),
        "grammar, healed": ask("{", '"na', grammar=GRAMMAR),
        "grammar, min_tokens": ask(grammar=GRAMMAR, params={"min_tokens": 40}),
        "budget": ask(thought="<think>\n", thinking=thinking(6)),
        "budget, grammar": ask(thought="<think>\n", thinking=thinking(6), grammar=GRAMMAR),
    }
    assert set(made) == set(NAMES)
    return made


def answer(request: Request) -> dict[int, list[tuple[int, float]]]:
    """Tokens of each choice with their log-probabilities; the pool balances after each step."""
    model, tokenizer = loaded()
    engine = Engine(
        model.program, model.info, EngineConfig(model="smollm2", max_num_batched_tokens=64)
    )
    engine.describe(TokenTable(spellings_of(tokenizer, model.info)))
    engine.add(request)
    found: dict[int, list[tuple[int, float]]] = {}
    while engine.has_work:
        for output in engine.step():
            assert output.finish_reason is not FinishReason.ERROR, output.error
            scores = [score.logprobs[0] for score in output.logprobs or []]
            found.setdefault(output.index, []).extend(zip(output.token_ids, scores, strict=True))
        engine.check_integrity()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_drafts_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = requests()[name]
    drafted = answer(request)
    monkeypatch.setattr(Sequence, "draft", lambda *_, **__: [])
    assert answer(request) == drafted
    assert len({tuple(tokens) for tokens in drafted.values()}) > 1  # the choices differ


@pytest.mark.parametrize("name", [name for name in NAMES if "grammar" in name])
def test_what_ends_by_itself_follows_the_grammar(name: str) -> None:
    _, tokenizer = loaded()
    request = requests()[name]
    ended = 0
    for tokens in answer(request).values():
        text = tokenizer.decode([token for token, _ in tokens])
        content = (request.grammar_text.decode() + text).rpartition("</think>")[2]
        if len(tokens) < 48:
            jsonschema.validate(json.loads(content), SCHEMA)
            ended += 1
    assert ended


def test_healed_tokens_spell_what_was_cut() -> None:
    _, tokenizer = loaded()
    for tokens in answer(requests()["healed"]).values():
        assert tokenizer.decode([token for token, _ in tokens]).startswith(" a tal")


def test_the_budget_closes_the_block() -> None:
    _, tokenizer = loaded()
    for tokens in answer(requests()["budget"]).values():
        ids = [token for token, _ in tokens]
        assert "</think>\n\n" in tokenizer.decode(ids[: 6 + 5])
