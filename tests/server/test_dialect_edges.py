"""Edges of the protocols beside OpenAI's chat, with an engine whose tokens are chosen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_service import Build, post
from test_edges import STRANGE

from legato.errors import EngineDeadError
from legato.server import anthropic_request, ollama, ollama_models, responses_request
from legato.server.errors import ResponseNotFoundError
from legato.server.responses_items import answer_item
from legato.server.responses_store import ResponseStore, StoredResponse

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


ASKED: dict[str, Any] = {"input": "hi"}


def test_a_response_streams_the_text_of_the_whole(build: Build) -> None:
    client, engine = build(STRANGE)
    whole = post(client, "/v1/responses", ASKED).json()
    assert whole["output"][0]["content"][0]["text"] == STRANGE
    events = anthropic_events(post(client, "/v1/responses", {**ASKED, "stream": True}).text)
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == STRANGE
    last = events[-1]["response"]
    assert last["output"][0]["content"] == whole["output"][0]["content"]
    # It ended for want of tokens: with nothing said after it, it goes on.
    again = post(client, "/v1/responses", {"previous_response_id": last["id"]})
    assert again.status_code == 200
    assert engine.requests[-1].prompt_token_ids == engine.requests[0].prompt_token_ids
    assert engine.requests[-1].output_token_ids


def test_a_response_that_failed_can_be_gone_on_from(build: Build) -> None:
    client, engine = build("one two three")
    engine.fails_with, engine.fails_after = EngineDeadError("killed"), 2
    events = anthropic_events(post(client, "/v1/responses", {**ASKED, "stream": True}).text)
    failed = events[-1]["response"]
    assert events[-1]["type"] == "response.failed" and failed["status"] == "failed"
    assert failed["error"] == {"code": "engine_died", "message": "killed"}
    assert failed["output"][0]["content"][0]["text"] == "one two"
    engine.fails_with = None
    body = {"previous_response_id": failed["id"], "echo": True}
    reply = post(client, "/v1/responses", body).json()
    assert reply["output"][0]["content"][0]["text"] == "one twoone two three"
    engine.fails_with, engine.fails_after = EngineDeadError("killed"), 0
    response = post(client, "/v1/responses", {**ASKED, "stream": True})
    assert response.status_code == 500 and response.json()["error"]["code"] == "engine_died"


def test_the_store_is_bounded() -> None:
    def stored(number: int, length: int) -> StoredResponse:
        response = {"id": f"r{number}"}
        words = "x" * (length - len("m") - len('{"id":"r0"}'))
        return StoredResponse(response, [], [answer_item("m", words, "completed")])

    store = ResponseStore(max_responses=3, max_characters=100)
    for number in range(3):
        store.put(stored(number, 15))
    store.get("r0")
    store.put(stored(3, 15))
    assert len(store) == 3
    with pytest.raises(ResponseNotFoundError):
        store.get("r1")  # the one that was not used for longest
    store.put(stored(4, 70))
    assert len(store) == 3 and store.get("r4")
    store.put(stored(5, 101))
    assert len(store) == 0
    store.put(stored(6, 100))
    store.delete("r6")
    store.put(stored(7, 100))
    assert len(store) == 1


SCHEMAS: list[tuple[type[msgspec.Struct], set[str]]] = [
    (
        anthropic_request.MessagesRequest,
        {*anthropic_request.NO_EFFECT, *anthropic_request.UNSUPPORTED},
    ),
    (anthropic_request.CountTokensRequest, set()),
    (ollama.OllamaChatRequest, {*ollama.NO_EFFECT, *ollama.UNSUPPORTED}),
    (ollama.OllamaGenerateRequest, set()),
    (ollama.OllamaOptions, {*ollama.OPTIONS_NO_EFFECT, *ollama.OPTIONS_UNSUPPORTED}),
    (ollama_models.OllamaShowRequest, set()),
    (
        responses_request.ResponsesRequest,
        {*responses_request.NO_EFFECT, *responses_request.UNSUPPORTED},
    ),
]


@pytest.mark.parametrize(("schema", "others"), SCHEMAS)
def test_the_documentation_has_every_field(schema: Any, others: set[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    assert not ({*schema.__struct_fields__} | others) - named
    assert not {*schema.__struct_fields__} & others
