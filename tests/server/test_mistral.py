"""Mistral's official client against /v1/chat/completions: ``prefix`` on the last message."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from mistralai.client import Mistral
from running_server import RunningServer
from test_chat import answer as chat_answer

BEGUN: Any = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "According to ", "prefix": True},
]
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def mistral(server: RunningServer) -> Mistral:
    return Mistral(api_key="none", server_url=server.url, timeout_ms=60_000)


def test_a_prefix_is_continued(mistral: Mistral, client: openai.OpenAI) -> None:
    reply = mistral.chat.complete(messages=BEGUN, **GREEDY)
    plain = [BEGUN[0], {"role": "assistant", "content": "According to "}]
    expected = chat_answer(client, plain, max_tokens=8)
    assert reply.choices[0].message.content == expected
    stream = mistral.chat.stream(messages=BEGUN, **GREEDY)
    flowed = "".join(event.data.choices[0].delta.content or "" for event in stream)
    assert flowed == expected


def test_its_own_fields(mistral: Mistral, client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {**GREEDY, "messages": BEGUN[:1], "temperature": 1.0}
    reply = mistral.chat.complete(random_seed=7, safe_prompt=False, **asked)
    expected = client.chat.completions.create(seed=7, **asked)
    assert reply.choices[0].message.content == expected.choices[0].message.content
    for field in (
        {"safe_prompt": True},
        {"random_seed": 1, "seed": 1},
        {"random_seed": 2**63},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(extra_body=field, **asked)
        assert caught.value.param == next(iter(field))


def test_models_are_listed(mistral: Mistral) -> None:
    [card] = mistral.models.list().data or []
    assert card.type == "base" and card.id == "smollm2"
    assert card.max_context_length == 2048 and card.capabilities.completion_chat
    assert mistral.models.retrieve(model_id="smollm2") == card
