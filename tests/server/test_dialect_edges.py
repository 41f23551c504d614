"""Edges of the protocols beside OpenAI's chat, with an engine whose tokens are chosen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_edges import STRANGE, Build, build, post, tokenizer

from legato.errors import EngineDeadError
from legato.server import anthropic, ollama, ollama_models

__all__ = ["build", "tokenizer"]  # fixtures

HI: Any = [{"role": "user", "content": "hi"}]
MESSAGES: dict[str, Any] = {"messages": HI, "max_tokens": 50}


def anthropic_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(event.partition("data: ")[2]) for event in text.strip().split("\n\n")]


def anthropic_text(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")


def test_anthropic_streams_the_text_of_the_whole(build: Build) -> None:
    client, _ = build(STRANGE)
    whole = post(client, "/v1/messages", MESSAGES).json()
    assert whole["content"][0]["text"] == STRANGE
    assert whole["usage"]["cache_read_input_tokens"] == 3
    streamed = post(client, "/v1/messages", {**MESSAGES, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert anthropic_text(anthropic_events(streamed.text)) == STRANGE


@pytest.mark.parametrize("begun", ["It is ", "It is\n", [{"type": "text", "text": "It\t"}]])
def test_strict_refuses_trailing_white_space(build: Build, begun: Any) -> None:
    body = {**MESSAGES, "messages": [*HI, {"role": "assistant", "content": begun}]}
    client, _ = build()
    assert post(client, "/v1/messages", body).status_code == 200
    client, _ = build(anthropic_strict=True)
    response = post(client, "/v1/messages", body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "messages: final assistant content cannot end with trailing whitespace"
    )
    asks = {**MESSAGES, "messages": [{"role": "user", "content": "hi "}]}
    assert post(client, "/v1/messages", asks).status_code == 200


def test_anthropic_key(build: Build) -> None:
    client, _ = build(api_key="secret")
    for header in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
        assert post(client, "/v1/messages", MESSAGES, headers=header).status_code == 200
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        response = post(client, path, MESSAGES, headers={"x-api-key": "guess"})
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"


def test_anthropic_errors_of_the_engine(build: Build) -> None:
    client, engine = build("one two three")
    engine.fails_with = EngineDeadError("killed")
    response = post(client, "/v1/messages", {**MESSAGES, "stream": True})
    assert response.status_code == 500 and response.json()["error"]["type"] == "api_error"
    engine.fails_after = 2
    streamed = post(client, "/v1/messages", {**MESSAGES, "stream": True})
    events = anthropic_events(streamed.text)
    assert anthropic_text(events) == "one two"
    assert events[-1] == {"type": "error", "error": {"type": "api_error", "message": "killed"}}
    assert streamed.text.strip().split("\n\n")[-1].startswith("event: error\n")


CHAT: dict[str, Any] = {"messages": HI}


def test_ollama_streams_the_text_of_the_whole(build: Build) -> None:
    client, _ = build(STRANGE)
    whole = post(client, "/api/chat", {**CHAT, "stream": False}).json()
    assert whole["message"]["content"] == STRANGE
    streamed = post(client, "/api/chat", CHAT)
    assert streamed.headers["content-type"].startswith("application/x-ndjson")
    records = [json.loads(line) for line in streamed.text.splitlines()]
    assert "".join(record["message"]["content"] for record in records) == STRANGE
    assert records[-1].keys() == whole.keys()


def test_ollama_errors_of_the_engine(build: Build) -> None:
    client, engine = build("one two three", api_key="secret")
    assert post(client, "/api/chat", CHAT).json().keys() == {"error"}
    key = {"headers": {"authorization": "Bearer secret"}}
    engine.fails_with, engine.fails_after = EngineDeadError("killed"), 2
    lines = post(client, "/api/chat", CHAT, **key).text.splitlines()
    assert json.loads(lines[-1]) == {"error": "killed"} and len(lines) == 3
    response = post(client, "/api/generate", {"prompt": "a", "stream": False}, **key)
    assert response.status_code == 500 and response.json() == {"error": "killed"}


SCHEMAS: list[tuple[type[msgspec.Struct], set[str]]] = [
    (anthropic.MessagesRequest, {*anthropic.NO_EFFECT, *anthropic.UNSUPPORTED}),
    (anthropic.CountTokensRequest, set()),
    (ollama.OllamaChatRequest, {*ollama.NO_EFFECT, *ollama.UNSUPPORTED}),
    (ollama.OllamaGenerateRequest, set()),
    (ollama.OllamaOptions, {*ollama.OPTIONS_NO_EFFECT, *ollama.OPTIONS_UNSUPPORTED}),
    (ollama_models.OllamaShowRequest, set()),
]


@pytest.mark.parametrize(("schema", "others"), SCHEMAS)
def test_the_documentation_has_every_field(schema: Any, others: set[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    assert not ({*schema.__struct_fields__} | others) - named
    assert not {*schema.__struct_fields__} & others
