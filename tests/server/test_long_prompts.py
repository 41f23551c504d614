"""A long prompt is read in a thread that lets go of Python's lock: other streams go on meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_service import FakeServer

from legato.server.app import build_app
from legato.server.service import Service
from legato.text.template import load_chat_template
from legato.text.tokenizer import Tokenizer

LENGTH = 2_000_000  # characters: half a second of encoding


@pytest.fixture(scope="module")
def service(model_path: Path, tokenizer: Tokenizer) -> Service:
    template = load_chat_template(model_path)
    return FakeServer(tokenizer, template, "one two", max_model_len=LENGTH).service


@pytest.fixture(scope="module")
def text(service: Service) -> str:
    draw = random.Random(0)
    words = [service.text.token_text(id) for id in draw.sample(range(1000, 40_000), 3000)]
    return "".join(draw.choices(words, k=LENGTH))[:LENGTH]


class Pulse:
    """The longest time that the event loop did nothing else."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def beat(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now


@contextmanager
def pulse() -> Iterator[Pulse]:
    found = Pulse()
    task = asyncio.create_task(found.beat())
    try:
        yield found
    finally:
        task.cancel()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_the_loop_goes_on(service: Service, text: str, path: str) -> None:
    body: dict[str, Any] = {"prompt": text}
    if "chat" in path:
        body = {"messages": [{"role": "user", "content": text}]}
    if "completions" in path:
        body["max_tokens"] = 2

    async def ask() -> tuple[httpx.Response, float, float]:
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            with pulse() as found:
                await asyncio.sleep(0.05)
                start = time.perf_counter()
                response = await client.post(path, json=body)
                return response, time.perf_counter() - start, found.longest

    response, seconds, longest = asyncio.run(ask())
    assert response.status_code == 200
    assert longest < seconds / 2, f"held up for {longest:.3f} of {seconds:.3f} s"


def test_long_texts_have_the_ids_of_short_ones(service: Service, text: str) -> None:
    """The library's two calls agree; the text is cut where a token cannot span."""
    part = text[:9_000].rstrip() + " <|im_end|>\n"
    tokenizer = service.text
    once = tokenizer.encode(part, add_special_tokens=False)
    assert tokenizer.encode(part * 3, add_special_tokens=False) == once * 3
