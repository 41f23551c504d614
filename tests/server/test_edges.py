"""Protocol edges, with an engine whose tokens are chosen: what a real model does too rarely."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from fake_service import Build, post

from legato.errors import EngineDeadError
from legato.request import FinishReason, Output, Request
from legato.server.bridge import EngineState
from legato.server.service import RANKS
from legato.text.tokenizer import Tokenizer

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream that ended as it should."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def chat_text(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c["delta"].get("content", "") for c in choices if c["index"] == index)


STRANGE = " \n naïve 東京 🏳️‍🌈 ﷽ tail \t "


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_has_the_text_of_the_whole(build: Build, n: int) -> None:
    client, _ = build(STRANGE)
    whole = post(client, "/v1/chat/completions", {**CHAT, "n": n}).json()
    chunks = events(post(client, "/v1/chat/completions", {**CHAT, "n": n, "stream": True}))
    for choice in whole["choices"]:
        assert choice["message"]["content"] == STRANGE
        assert chat_text(chunks, choice["index"]) == STRANGE
    assert [c["choices"][0]["delta"].get("role") for c in chunks[:n]] == ["assistant"] * n
    assert all("\ufffd" not in json.dumps(chunk, ensure_ascii=False) for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_and_cancels(build: Build, tokenizer: Tokenizer, stream: bool) -> None:
    client, engine = build("one two three four five")
    body = {**CHAT, "stop": "ee fo", "stream": stream, "stream_options": {"include_usage": True}}
    if not stream:
        del body["stream_options"]
    response = post(client, "/v1/chat/completions", body)
    if stream:
        chunks = events(response)
        text, usage = chat_text(chunks), chunks[-1]["usage"]
        last = chunks[-2]["choices"][0]
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
    else:
        reply = response.json()
        last, usage = reply["choices"][0], reply["usage"]
        text = last["message"]["content"]
    assert text == "one two thr"
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "ee fo")
    up_to_stop = len(tokenizer.encode("one two three four", add_special_tokens=False))
    assert usage["completion_tokens"] == up_to_stop
    assert engine.cancelled == [(engine.requests[0].id, None)]
    included = {**CHAT, "stop": ["zzz", "ee fo"], "include_stop_str_in_output": True}
    reply = post(client, "/v1/chat/completions", included).json()
    assert reply["choices"][0]["message"]["content"] == "one two three fo"


def test_one_choice_stops_while_the_other_goes_on(build: Build, tokenizer: Tokenizer) -> None:
    long, short = (tokenizer.encode(t, add_special_tokens=False) for t in ("a b c d", "a STOP c d"))

    def script(request: Request) -> list[list[Output]]:
        steps = [
            [Output(request_id=request.id, index=i, token_ids=[t[k]]) for i, t in enumerate(both)]
            for k in range(4)
        ]
        for output in steps[-1]:
            output.finish_reason = FinishReason.LENGTH
        return steps

    both = (long[:4], (short + short)[:4])
    client, engine = build(script)
    body = {**CHAT, "n": 2, "stop": "STOP"}
    choices = post(client, "/v1/chat/completions", body).json()["choices"]
    assert [c["finish_reason"] for c in choices] == ["length", "stop"]
    assert choices[0]["message"]["content"] == tokenizer.decode(long[:4])
    assert choices[1]["message"]["content"] == "a "
    assert engine.cancelled == [(engine.requests[0].id, 1)]


def test_stop_token_is_not_shown_but_counted(build: Build, tokenizer: Tokenizer) -> None:
    hello = tokenizer.encode("hello", add_special_tokens=False)

    def script(request: Request) -> list[list[Output]]:
        end = request.params.stop_token_ids or [2]
        output = Output(request_id=request.id, token_ids=[*hello, end[0]], stop_token_id=end[0])
        output.finish_reason = FinishReason.STOP
        return [[output]]

    client, _ = build(script)
    reply = post(client, "/v1/chat/completions", {**CHAT, "return_token_ids": True}).json()
    choice = reply["choices"][0]
    assert choice["message"]["content"] == "hello" and choice["stop_reason"] is None
    assert choice["token_ids"] == [*hello, 2]
    assert reply["usage"]["completion_tokens"] == len(hello) + 1
    reply = post(client, "/v1/chat/completions", {**CHAT, "stop_token_ids": [99]}).json()
    assert reply["choices"][0]["stop_reason"] == 99


def test_death_before_the_first_token_is_a_500(build: Build) -> None:
    client, engine = build()
    engine.fails_with = EngineDeadError("the engine process was killed by SIGKILL")
    for stream in (False, True):
        response = post(client, "/v1/chat/completions", {**CHAT, "stream": stream})
        assert response.status_code == 500
        error = response.json()["error"]
        assert error["code"] == "engine_died" and "SIGKILL" in error["message"]


def test_death_in_a_stream_is_an_event(build: Build) -> None:
    client, engine = build("one two three")
    engine.fails_with, engine.fails_after = EngineDeadError("killed"), 2
    response = post(client, "/v1/chat/completions", {**CHAT, "stream": True})
    assert response.status_code == 200
    *chunks, last = [json.loads(e[6:]) for e in response.text.split("\n\n") if e]
    assert chat_text(chunks) == "one two"
    assert last["error"]["code"] == "engine_died"
    response = post(client, "/v1/chat/completions", CHAT)
    assert response.status_code == 500 and response.json()["error"]["code"] == "engine_died"


def test_an_unexpected_error_tells_nothing(build: Build) -> None:
    client, engine = build()
    engine.fails_with = ZeroDivisionError("secret")
    response = post(client, "/v1/chat/completions", CHAT)
    assert response.status_code == 500 and "secret" not in response.text
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("state", EngineState)
def test_health_is_life_and_ready_is_service(build: Build, state: EngineState) -> None:
    client, engine = build()
    engine.state = state
    health, ready = (asyncio.run(client.get(path)) for path in ("/health", "/ready"))
    assert health.status_code == (503 if state is EngineState.DEAD else 200)
    assert ready.status_code == (200 if state is EngineState.READY else 503)
    assert health.json() == ready.json() == {"status": state.value}
    response = post(client, "/v1/chat/completions", CHAT)
    if state in (EngineState.READY, EngineState.RESTARTING):
        assert response.status_code == 200  # the engine's client has it wait for the next engine
    else:
        assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert response.json()["error"]["code"] == "not_ready"


def test_continuous_usage(build: Build) -> None:
    client, _ = build("one two three")
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**CHAT, "stream": True, "stream_options": options}
    chunks = events(post(client, "/v1/chat/completions", body))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["usage"]]
    assert counts == sorted(counts) and counts[-1] == counts[-2]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


def test_continuous_usage_counts_no_token_that_is_not_given(build: Build) -> None:
    client, _ = build("one two three")
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "a", "max_tokens": 0, "echo": True, "stream": True, "stream_options": options}
    chunks = events(post(client, "/v1/completions", body))
    assert len(chunks) > 2
    assert {chunk["usage"]["completion_tokens"] for chunk in chunks} == {0}


def test_several_prompts_stream_side_by_side(build: Build) -> None:
    client, _ = build("one two")
    body = {"prompt": ["a", "b"], "n": 2, "stream": True, "echo": True}
    chunks = events(post(client, "/v1/completions", body))
    texts = {index: "" for index in range(4)}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "aone two", 1: "aone two", 2: "bone two", 3: "bone two"}


def test_body_limit(build: Build) -> None:
    client, _ = build(max_body_bytes=1000)
    big = {**CHAT, "user": "x" * 1000}
    response = post(client, "/v1/chat/completions", big)
    assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large"

    async def parts() -> Any:
        for _ in range(5):
            yield b" " * 300

    chunked = asyncio.run(client.post("/v1/chat/completions", content=parts()))
    assert chunked.status_code == 413


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"x"', b'{"temperature": NaN}', b'{"n": 1e999}', b"\xff\xfe"]
)
def test_a_body_that_is_no_json_object(build: Build, body: bytes) -> None:
    client, _ = build()
    response = asyncio.run(client.post("/v1/chat/completions", content=body))
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_api_key(build: Build) -> None:
    client, _ = build(api_key="sécret")
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
            response = post(client, path, CHAT, headers=header)
            assert response.status_code == 401, path
            assert response.json()["error"]["code"] == "invalid_api_key"
        assert asyncio.run(client.get("/v1/models", headers=header)).status_code == 401
    right = {"authorization": "Bearer sécret".encode()}
    assert post(client, "/v1/chat/completions", CHAT, headers=right).status_code == 200
    assert asyncio.run(client.get("/health")).status_code == 200


def test_cors(build: Build) -> None:
    client, _ = build(cors_origins="https://a.example, https://b.example")
    asks = {"origin": "https://b.example", "access-control-request-method": "POST"}
    allowed = asyncio.run(client.options("/v1/chat/completions", headers=asks))
    assert allowed.headers["access-control-allow-origin"] == "https://b.example"
    response = post(client, "/v1/chat/completions", CHAT, headers={"origin": "https://c.example"})
    assert "access-control-allow-origin" not in response.headers


def test_unknown_path_and_method_have_openais_shape(build: Build) -> None:
    client, _ = build()
    for response, status in (
        (asyncio.run(client.get("/v1/nothing")), 404),
        (asyncio.run(client.get("/v1/completions")), 405),
    ):
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_openapi_shows_fields_and_limits(build: Build) -> None:
    client, _ = build()
    document = asyncio.run(client.get("/openapi.json")).json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][name]["properties"]
    assert {"messages", "top_k", "continue_final_message", "logit_bias"} <= set(fields)
    top_p = next(kind for kind in fields["top_p"]["anyOf"] if kind["type"] == "number")
    assert (top_p["exclusiveMinimum"], top_p["maximum"]) == (0, 1)
    assert asyncio.run(client.get("/docs")).status_code == 200


def test_openapi_shows_every_operation_once(build: Build) -> None:
    client, _ = build()
    document = asyncio.run(client.get("/openapi.json")).json()
    operations = [
        (path, method, shown)
        for path, methods in document["paths"].items()
        for method, shown in methods.items()
    ]
    known = {(path, method) for path, method, _ in operations}
    assert {
        ("/v1/chat/completions", "post"),
        ("/v1/responses/{response_id}", "delete"),
        ("/v1/models/{name}", "get"),
        ("/v1/messages/count_tokens", "post"),
        ("/api/tags", "get"),
        ("/metrics", "get"),
    } <= known
    names = [shown["operationId"] for _, _, shown in operations]
    assert len(names) == len(set(names)) == 27
    for path, _, shown in operations:
        places = [one for one in shown.get("parameters", []) if one["in"] == "path"]
        asked = {f"{{{parameter['name']}}}" for parameter in places}
        assert all(parameter in path for parameter in asked) and len(asked) == path.count("{")
    schemas = document["components"]["schemas"]
    references = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert references and set(references) <= set(schemas)


@pytest.mark.parametrize("min_tokens", [0, 2, 3])
def test_no_stop_string_ends_within_the_first_min_tokens(build: Build, min_tokens: int) -> None:
    client, _ = build("one two three one two three")
    body = {**CHAT, "stop": "three", "min_tokens": min_tokens}
    text = post(client, "/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    assert text == ("one two " if min_tokens < 3 else "one two three one two ")


@pytest.mark.parametrize("priority", [2**31, -(2**31)])
def test_priorities_have_bounds(build: Build, priority: int) -> None:
    client, engine = build()
    assert post(client, "/v1/chat/completions", {**CHAT, "priority": priority}).status_code == 200
    assert engine.requests[0].priority // RANKS == priority
    beyond = priority + (1 if priority > 0 else -1)
    refused = post(client, "/v1/chat/completions", {**CHAT, "priority": beyond})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "priority"
