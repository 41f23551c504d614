"""A long prompt is read in a thread that lets go of Python's lock: other streams go on meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_service import FakeServer

from legato.answer import Answer
from legato.server.app import build_app
from legato.server.service import Service
from legato.text.template import load_chat_template
from legato.text.tokenizer import Tokenizer

LENGTH = 1_000_000  # characters: a quarter of a second of encoding and more


@pytest.fixture(scope="module")
def service(model_path: Path, tokenizer: Tokenizer) -> Service:
    template = load_chat_template(model_path)
    return FakeServer(tokenizer, template, "one two", max_model_len=LENGTH).service


@pytest.fixture(scope="module")
def words(service: Service) -> list[str]:
    draw = random.Random(0)
    return [service.text.token_text(id) for id in draw.sample(range(1000, 40_000), 3000)]


def new_text(words: list[str], seed: object) -> str:
    """Nobody has sent it before: what was encoded once is known and takes no time."""
    return "".join(random.Random(str(seed)).choices(words, k=LENGTH))[:LENGTH]


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


def chat(text: str) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": text}]}


BODIES: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/chat/completions": lambda text: chat(text) | {"max_tokens": 2},
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 2},
    "/v1/responses": lambda text: {"input": text, "max_output_tokens": 16},
    "/v1/messages": lambda text: chat(text) | {"max_tokens": 2},
    "/v1/messages/count_tokens": chat,
    "/api/chat": lambda text: chat(text) | {"stream": False},
    "/tokenize": lambda text: {"prompt": text, "return_token_strs": True},
}


def test_many_prompts_let_others_have_their_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are not prepared at all where there would never be room for them."""

    async def ask(**more: Any) -> tuple[httpx.Response, int]:
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            answered: list[int] = []
            answer = service.answer

            def noted(*args: Any, **named: Any) -> Answer:
                answered.append(turns)
                return answer(*args, **named)

            monkeypatch.setattr(service, "answer", noted)
            task = asyncio.create_task(others())
            try:
                body = {"prompt": ["Once upon a time"] * 320, "max_tokens": 1, **more}
                response = await client.post("/v1/completions", json=body)
            finally:
                task.cancel()
                monkeypatch.undo()
            return response, len(set(answered))

    response, moments = asyncio.run(ask())
    assert response.status_code == 200 and moments >= 20
    response, moments = asyncio.run(ask(n=100))
    assert (response.status_code, response.json()["error"]["param"], moments) == (400, "n", 0)


def test_more_items_than_messages_are_refused(service: Service) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            items = [{"role": "user", "content": "hi"}] * 50_001
            return await client.post("/v1/responses", json={"input": items})

    response = asyncio.run(ask())
    assert response.status_code == 400 and "at most 50000" in response.text


@pytest.mark.parametrize("path", BODIES)
def test_the_loop_goes_on(service: Service, words: list[str], path: str) -> None:
    """Held up for most of the time, whichever text: once may be the machine's doing."""

    async def ask(text: str) -> tuple[httpx.Response, float, float]:
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            with pulse() as found:
                await asyncio.sleep(0.05)
                start = time.perf_counter()
                response = await client.post(path, json=BODIES[path](text))
                seconds = time.perf_counter() - start
                await asyncio.sleep(0.01)  # it may have been held up until just now
                return response, seconds, found.longest

    shares = []
    for attempt in range(3):
        response, seconds, longest = asyncio.run(ask(new_text(words, f"{path} {attempt}")))
        assert response.status_code == 200, response.text
        shares.append(longest / seconds)
        if shares[-1] < 1 / 2:
            return
    raise AssertionError(f"held up for {shares} of the time")


def test_long_texts_have_the_ids_of_short_ones(service: Service, words: list[str]) -> None:
    """The library's two calls agree; the text is cut where a token cannot span."""
    part = new_text(words, "part")[:9_000].rstrip() + " <|im_end|>\n"
    tokenizer = service.text
    once = tokenizer.encode(part, add_special_tokens=False)
    assert tokenizer.encode(part * 3, add_special_tokens=False) == once * 3
