"""Constrained answers of a real model: drafts change the steps, never the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from legato import models
from legato.asking import spellings_of
from legato.batch import Batch
from legato.config import EngineConfig
from legato.constraint.grammar import Grammar
from legato.constraint.tokens import TokenTable
from legato.engine import Engine
from legato.models.loading import LoadedModel
from legato.request import FinishReason, Request, SamplingParams, Thinking
from legato.runner import Runner
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


def new_engine(**config: Any) -> Engine:
    model, tokenizer = loaded()
    engine = Engine(model.program, model.info, EngineConfig(model="smollm2", **config))
    engine.describe(TokenTable(spellings_of(tokenizer, model.info)))
    return engine


def answer(request: Request) -> dict[int, list[tuple[int, float]]]:
    """Tokens of each choice with their log-probabilities; the pool balances after each step."""
    engine = new_engine(max_num_batched_tokens=64)
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


def tokens_of(request: Request, **config: Any) -> dict[int, list[int]]:
    """Of each choice; a choice that failed has its error's number of characters behind them."""
    engine = new_engine(**config)
    engine.add(request)
    found: dict[int, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            found.setdefault(output.index, []).extend(output.token_ids)
            if output.error:
                assert "refuses a token that it has allowed" in output.error
                found[output.index].append(-1)
        engine.check_integrity()
    return found


@pytest.fixture
def went_on(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows of the steps that went on with the last one's batch."""
    seen: list[int] = []
    go_on = Runner.go_on

    def noted(runner: Runner, batch: Batch, tokens: list[int], ruled: Any = ()) -> list[int]:
        seen.append(len(tokens))
        return go_on(runner, batch, tokens, ruled)

    monkeypatch.setattr(Runner, "go_on", noted)
    return seen


def many(count: int, seed: int = 5) -> Request:
    """A list under a grammar; the choices are random, so the grammar refuses some of their tokens."""
    people = {"type": "array", "items": SCHEMA, "minItems": 50}
    params = SamplingParams(n=count, seed=seed, temperature=1.5, max_tokens=40)
    return replace(
        requests()["grammar"], params=params, grammar=f"start: %json {json.dumps(people)}"
    )


def test_steps_that_go_on_under_grammars_change_nothing(went_on: list[int]) -> None:
    """More than a few run, so nothing is drafted."""
    together = tokens_of(many(8), speculative_config="off")
    assert went_on.count(8) >= 36
    for index in range(8):
        alone = many(1, 5 + index)
        assert tokens_of(alone, speculative_config="off") == {0: together[index]}


def test_a_grammar_that_goes_wrong_ends_its_own_answer(
    went_on: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tokens_of(many(8), speculative_config="off")
    grammars: list[Grammar] = []
    takes: list[int] = []
    take = Grammar.take

    def broken(grammar: Grammar, token: int) -> bool:
        """The third one refuses all from its twentieth token on."""
        if grammar not in grammars:
            grammars.append(grammar)
        if grammar is grammars[min(2, len(grammars) - 1)] and len(grammars) == 8:
            takes.append(token)
            if len(takes) > 20:
                return False
        return take(grammar, token)

    went_on.clear()
    monkeypatch.setattr(Grammar, "take", broken)
    found = tokens_of(many(8), speculative_config="off")
    assert went_on.count(8) >= 10 and went_on.count(7) >= 10
    failed = [index for index, tokens in found.items() if tokens[-1] == -1]
    assert len(failed) == 1
    for index, tokens in found.items():
        assert tokens == whole[index] or (
            index in failed and tokens[:-1] == whole[index][: len(tokens) - 1]
        )


def test_healed_tokens_spell_what_was_cut() -> None:
    _, tokenizer = loaded()
    for tokens in answer(requests()["healed"]).values():
        assert tokenizer.decode([token for token, _ in tokens]).startswith(" a tal")


def test_the_budget_closes_the_block() -> None:
    _, tokenizer = loaded()
    for tokens in answer(requests()["budget"]).values():
        ids = [token for token, _ in tokens]
        assert "</think>\n\n" in tokenizer.decode(ids[: 6 + 5])
