"""Whatever a client puts into a field, it gets an answer or a 400 that says why; never a 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from fake_service import Build

from legato.server.completion_request import CompletionRequest
from legato.server.openai_chat import ChatRequest
from legato.server.tokenize import DetokenizeRequest, TokenizeRequest

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**6, 2**31, 2**63, 2**64, 10**30, 0.0, 0.5, -0.5, 1e300, 1e-300,
    "", " ", "x", "\x00", "\ud800", "a" * 3000, [], [0], [-1], [1.5], [None], [""], ["x"], [[]], [[0]],
    [10**9], [2**70], {}, {"0": 0}, {"-1": 1}, {"a": "b"}, {"self": 1}, {"type": "text"}, [{}], [{"role": "user"}],
]  # fmt: skip
MESSAGES: list[Any] = [
    [{"role": role, "content": content}]
    for role in ("user", "assistant", "system", "tool", "nobody", "", None, 7, ["user"])
    for content in (
        "hi", "", None, 7, [], [7], ["hi"], {}, [{"type": "text"}], [{"type": "text", "text": "hi"}],
        [{"type": "text", "text": 7}], [{"type": "image_url", "image_url": {"url": "x"}}], "\ud800",
    )
]  # fmt: skip
ENDPOINTS: list[tuple[str, type[Any], dict[str, Any]]] = [
    ("/v1/chat/completions", ChatRequest, {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/completions", CompletionRequest, {"prompt": "hi"}),
    ("/tokenize", TokenizeRequest, {"prompt": "hi"}),
    ("/detokenize", DetokenizeRequest, {"tokens": [1, 2]}),
]


async def check(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()  # escapes what is no Unicode text, as clients do
    response = await client.post(path, content=content)
    assert response.status_code in (200, 400, 404), (body, response.text)
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["param"] or error["message"].startswith("the body is not valid JSON"), body


@pytest.mark.parametrize(("path", "schema", "body"), ENDPOINTS)
def test_odd_values(build: Build, path: str, schema: Any, body: dict[str, Any]) -> None:
    client, _ = build("hello world")

    async def all_of_them() -> None:
        for field in schema.__struct_fields__:
            for value in VALUES:
                await check(client, path, {**body, field: value})

    asyncio.run(all_of_them())


def test_odd_messages(build: Build) -> None:
    client, _ = build("hello world")

    async def all_of_them() -> None:
        for messages in MESSAGES:
            for extra in ({}, {"continue_final_message": True}, {"echo": True}):
                await check(client, "/v1/chat/completions", {"messages": messages, **extra})

    asyncio.run(all_of_them())
