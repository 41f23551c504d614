"""Who is served while others send nonsense: requests with known answers, and a look at the clock."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "One, two, three,", "max_tokens": 24, "temperature": 0}),
    ("/v1/completions", {"prompt": "A story:", "max_tokens": 24, "seed": 3, "n": 2, "logprobs": 2}),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Name a colour."}],
            "max_tokens": 24,
            "temperature": 0,
            "stream": True,
        },
    ),
    (
        "/v1/completions",
        {
            "prompt": "A person as JSON:",
            "max_tokens": 24,
            "seed": 5,
            "guided_json": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    ),
]


class Beside:
    """``slowest``: the longest that /health took, in seconds."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.expected: list[Any] = []
        self.answers = 0
        self.slowest = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Beside:
        self.expected = [await self._answer(*request) for request in REQUESTS]
        self._tasks = [asyncio.create_task(self._ask()), asyncio.create_task(self._look())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Raises what went wrong beside."""
        for task in self._tasks:
            task.cancel()
        done = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in done:
            if isinstance(result, Exception):
                raise result

    async def _ask(self) -> None:
        while True:
            for request, expected in zip(REQUESTS, self.expected, strict=True):
                found = await self._answer(*request)
                assert found == expected, f"{request} was disturbed:\n{found}\n{expected}"
                self.answers += 1

    async def _look(self) -> None:
        while True:
            started = time.monotonic()
            response = await self.http.get("/health")
            self.slowest = max(self.slowest, time.monotonic() - started)
            assert response.status_code == 200, response.text
            await asyncio.sleep(0.02)

    async def _answer(self, path: str, body: dict[str, Any]) -> Any:
        """All that was said, without what is another each time."""
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        if body.get("stream"):
            pieces = [line[6:] for line in response.text.split("\n\n") if "{" in line]
            events = [httpx.Response(200, text=piece).json() for piece in pieces]
            choices = [event["choices"][0] for event in events]
            return "".join(choice["delta"].get("content") or "" for choice in choices)
        return response.json()["choices"]
