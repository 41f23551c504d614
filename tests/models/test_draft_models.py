"""A draft model beside a real one: fewer steps, the same tokens, the same log-probabilities in bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import pytest
import torch
import transformers
from test_speculation import WAYS, Answers, Eager, ask

from legato import models
from legato.asking import spellings_of
from legato.config import EngineConfig
from legato.constraint.tokens import TokenTable
from legato.engine import Engine
from legato.errors import ConfigError
from legato.models.loading import LoadedModel
from legato.request import FinishReason, Request
from legato.text.tokenizer import load_tokenizer
from legato.weights import hub

VOCAB = 49152


def tiny(folder: Path, vocab: int) -> Path:
    """A checkpoint of random weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@cache
def loaded(draft: str) -> LoadedModel:
    """The draft model seems to be small, so that it is tried."""
    model = models.load(EngineConfig(model="smollm2", draft_model=draft, kv_cache_memory=2**28))
    assert model.draft is not None
    small = msgspec.structs.replace(model.draft.info, weight_bytes=1)
    return replace(model, draft=replace(model.draft, info=small))


@pytest.fixture(autouse=True, scope="module")
def unload() -> Iterator[None]:
    yield
    loaded.cache_clear()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny(tmp_path_factory.mktemp("stranger"), VOCAB))


class Slow(Eager):
    """A step seems to take so long that any guess pays."""

    def seconds(self, rows: int) -> float:
        return 10.0


def answers(model: LoadedModel, requests: list[Request], *, drafts: bool) -> tuple[Answers, int]:
    """Tokens with their scores, and how many steps they took."""
    config = EngineConfig(speculative_config="off")
    draft = model.draft if drafts else None
    engine = Engine(model.program, model.info, config, Slow(), draft)
    tokenizer = load_tokenizer(hub.resolve("smollm2").path)
    engine.describe(TokenTable(spellings_of(tokenizer, model.info)))
    for request in requests:
        engine.add(request)
    found: Answers = {}
    while engine.has_work:
        for output in engine.step():
            assert output.finish_reason is not FinishReason.ERROR, output.error
            scored = zip(output.token_ids, output.logprobs or [], strict=True)
            found.setdefault((output.request_id, output.index), []).extend(scored)
        engine.check_integrity()
    return found, engine.stats().steps


@pytest.mark.parametrize("way", WAYS)
def test_a_twin_guesses_nearly_all(way: str) -> None:
    """Also what is sampled: it draws by the same random numbers."""
    requests = [ask(params=WAYS[way])]
    plain, plain_steps = answers(loaded("smollm2"), requests, drafts=False)
    guessed, steps = answers(loaded("smollm2"), requests, drafts=True)
    assert guessed == plain
    assert steps < 0.25 * plain_steps


def test_a_stranger_changes_nothing(stranger: str) -> None:
    requests = [ask(way, params=params) for way, params in WAYS.items()]
    plain, _ = answers(loaded(stranger), requests, drafts=False)
    guessed, _ = answers(loaded(stranger), requests, drafts=True)
    assert guessed == plain


def test_together_and_healed() -> None:
    tokenizer = load_tokenizer(hub.resolve("smollm2").path)
    given = tokenizer.encode('def area(shape):\n    """', add_special_tokens=False)
    requests = [ask(way, params=params) for way, params in WAYS.items()]
    requests.append(ask("healed", output_token_ids=given, pending=b"The ar"))
    plain, plain_steps = answers(loaded("smollm2"), requests, drafts=False)
    guessed, steps = answers(loaded("smollm2"), requests, drafts=True)
    assert guessed == plain
    assert steps < 0.5 * plain_steps


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = str(tiny(tmp_path, 1000))
    with pytest.raises(
        ConfigError, match="vocabulary of 1000 tokens, the model one of 49152"
    ) as no:
        models.load(EngineConfig(model="smollm2", draft_model=other, kv_cache_memory=2**28))
    assert no.value.field == "draft_model"
