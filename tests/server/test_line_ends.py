"""Characters that Unicode calls ends of lines, in streams that are told in lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import ollama
import pytest
from fake_service import Build

ANSWER = "a\u2028b\u2029c\x85d\x0b\x0ce é."
CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": CHAT | {"max_tokens": 50},
    "/v1/responses": {"input": "hi"},
    "/api/chat": CHAT,
}


@pytest.mark.parametrize("path", STREAMS)
def test_a_line_is_a_line_for_every_client(build: Build, path: str) -> None:
    client, _ = build(ANSWER)

    async def ask() -> list[str]:
        body = STREAMS[path] | {"stream": True}
        async with client.stream("POST", path, json=body) as response:
            return [line async for line in response.aiter_lines()]

    lines = asyncio.run(ask())
    for line in lines:
        name, _, data = line.rpartition("data: ")
        if line and not line.startswith("event: ") and data != "[DONE]":
            assert name == ""
            json.loads(data)
    assert "\\u2028" in "".join(lines)


def test_ollamas_client_reads_it(build: Build) -> None:
    client, _ = build(ANSWER)

    async def ask() -> str:
        asked = ollama.AsyncClient(host="http://test")
        asked._client = client
        parts = await asked.chat(model="fake", messages=CHAT["messages"], stream=True)
        return "".join([part.message.content or "" async for part in parts])

    assert asyncio.run(ask()) == ANSWER
