"""The table of errors, as a client of the real server sees them."""

from __future__ import annotations

import time
from typing import Any

import httpx
import openai
import pytest
from running_server import RunningServer

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
PROMPT: dict[str, Any] = {"prompt": "hi", "max_tokens": 2}


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else 1


TABLE: list[tuple[str, dict[str, Any], int, str, str]] = [
    # path, change, status, param, part of the message
    ("chat/completions", {"model": "gpt-4"}, 404, "model", "`gpt-4` does not exist"),
    ("completions", {"model": "gpt-4"}, 404, "model", "`gpt-4` does not exist"),
    ("chat/completions", {"temperature": -1}, 400, "temperature", "at least 0"),
    ("chat/completions", {"top_p": 0}, 400, "top_p", "above 0 and at most 1"),
    ("chat/completions", {"n": 0}, 400, "n", "at least 1"),
    ("chat/completions", {"max_tokens": 0}, 400, "max_tokens", "at least 1"),
    ("chat/completions", {"max_completion_tokens": -1}, 400, "max_completion_tokens", "at least"),
    ("chat/completions", {"max_tokens": 5000}, 400, "max_tokens", "context length is 2048"),
    ("chat/completions", {"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "most 20"),
    ("chat/completions", {"top_logprobs": 2}, 400, "top_logprobs", "needs logprobs"),
    ("chat/completions", {"logprobs": 3}, 400, "logprobs", "expected bool"),
    ("chat/completions", {"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
    (
        "chat/completions",
        {"response_format": {"type": "xml"}},
        400,
        "response_format.type",
        "not supported",
    ),
    ("chat/completions", {"temprature": 1}, 400, "temprature", "did you mean 'temperature'"),
    ("chat/completions", {"logit_bias": {"99999": 1}}, 400, "logit_bias", "0 to 49151"),
    ("chat/completions", {"prompt_logprobs": 1, "stream": True}, 400, "prompt_logprobs", "stream"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": "word " * 3000}]},
        400,
        "messages",
        "context length is 2048 tokens",
    ),
    (
        "chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}, *CHAT["messages"]]},
        400,
        "messages[0].tool_calls",
        "is not supported: the chat template shows none",
    ),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": "hi", "nmae": "x"}]},
        400,
        "messages[0].nmae",
        "did you mean 'name'",
    ),
    ("chat/completions", {"stream_options": {}}, 400, "stream_options", "needs stream"),
    (
        "chat/completions",
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        400,
        "stream_options.include_obfuscation",
        "not supported",
    ),
    ("completions", {"prompt": [99999]}, 400, "prompt", "99999"),
    ("completions", {"prompt": ["a", 1]}, 400, "prompt", "mixes"),
    ("completions", {"prompt": []}, 400, "prompt", "empty"),
    ("completions", {"prompt": ["a"] * 900, "n": 3}, 400, "n", "places for 2304"),
    ("completions", {"best_of": 4}, 400, "best_of", "not supported"),
    ("completions", {"suffix": "x"}, 400, "suffix", "not supported"),
    ("completions", {"logprobs": 21}, 400, "logprobs", "at most 20"),
    ("completions", {"max_tokens": 0}, 400, "max_tokens", "at least 1"),
    ("completions", {"stop": [""]}, 400, "stop", "empty"),
    ("completions", {"stop": ["x"] * 129}, 400, "stop", "at most 128"),
    ("completions", {"stop": "x" * 8193}, 400, "stop", "at most 8192"),
    ("completions", {"stop_token_ids": [5] * 49153}, 400, "stop_token_ids", "has 49153"),
    ("completions", {"top_k": 2**31}, 400, "top_k", "at most 2147483647"),
    ("completions", {"repetition_penalty": 5e-324}, 400, "repetition_penalty", "at least 1e-06"),
    ("completions", {"temperature": 1e300}, 400, "temperature", "at most 1000000"),
    ("completions", {"max_tokens": -(10**400)}, 400, "max_tokens", "beyond 64 bits"),
    ("completions", {"seed": 10**30}, 400, "seed", "beyond 64 bits"),
    ("completions", {"seed": 2**63}, 400, "seed", "beyond 64 bits"),
    ("completions", {"cache_salt": "x" * 513}, 400, "cache_salt", "at most 512"),
    ("completions", {"request_id": "x" * 513}, 400, "request_id", "at most 512"),
    ("completions", {"request_id": "日本"}, 400, "request_id", "ASCII"),
    ("chat/completions", {"request_id": "a/b"}, 400, "request_id", "without /"),
    ("chat/completions", {"metadata": nested(129)}, 400, "metadata", "128 levels"),
    ("chat/completions", {"metadata": {"a": [2**64]}}, 400, "metadata", "beyond 64 bits"),
    ("chat/completions", {"thinking": {"type": ["enabled"]}}, 400, "thinking.type", "one of"),
    (
        "chat/completions",
        {"thinking_token_budget": 5},
        400,
        "thinking_token_budget",
        "no thoughts to limit",
    ),
]


@pytest.mark.parametrize(("path", "change", "status", "param", "message"), TABLE)
def test_error_names_field_and_limit(
    server: RunningServer, path: str, change: dict[str, Any], status: int, param: str, message: str
) -> None:
    body = {**(CHAT if path.startswith("chat") else PROMPT), **change}
    response = httpx.post(f"{server.url}/v1/{path}", json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert message in error["message"]


def test_what_is_within_the_limits_is_served(server: RunningServer) -> None:
    for change in (
        {"stop": [f"{number}#" for number in range(128)]},
        {"metadata": nested(128)},
        {"seed": 2**63 - 1, "temperature": 1e6, "repetition_penalty": 1e-6, "top_k": 2**31 - 1},
        {"user": "12345678901234567890123"},  # digits, but no number
    ):
        response = httpx.post(f"{server.url}/v1/completions", json={**PROMPT, **change})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900])
def test_deep_json_is_no_failure(server: RunningServer, body: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/completions", content=body)
    assert response.status_code == 400, response.text


def test_messages_do_not_repeat_megabytes(server: RunningServer) -> None:
    name = "x" * 3_000_000
    started = time.monotonic()
    error = httpx.post(f"{server.url}/v1/completions", json={**PROMPT, name: 1}).json()["error"]
    assert time.monotonic() - started < 5
    assert len(error["message"]) < 1100 and error["message"].startswith("unknown field 'xxx")
    assert len(error["param"]) < 300


def test_errors_have_the_clients_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm2", messages=CHAT["messages"], top_p=2.0)
    assert caught.value.param == "top_p"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="smollm2", prompt="word " * 3000)
    assert caught.value.code == "context_length_exceeded"


def test_what_the_client_may_send_without_effect(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        **CHAT,
        model="smollm2",
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=False,
        response_format={"type": "text"},
        tools=[],
        stop=None,
        stream=False,
    )
    assert reply.choices
