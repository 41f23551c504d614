"""Responses in the background, where something comes between: a deletion, no room."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fake_engine import Script
from fake_service import FakeServer

from legato.request import FinishReason, Output, Request, TokenLogprobs
from legato.server.kept_streams import KeptStreams
from legato.server.load import Load
from legato.text.template import load_chat_template
from legato.text.tokenizer import Tokenizer

ASKED: dict[str, Any] = {"input": "hi", "background": True}


@pytest.fixture
def server(model_path: Path, tokenizer: Tokenizer) -> FakeServer:
    return make(model_path, tokenizer, "one two three four five six")


def make(model_path: Path, tokenizer: Tokenizer, script: Script | str) -> FakeServer:
    server = FakeServer(tokenizer, load_chat_template(model_path), script, max_model_len=4096)
    server.engine.pause = 0.02
    return server


def test_what_was_deleted_ends_and_stays_deleted(server: FakeServer) -> None:
    async def run() -> tuple[int, int, int]:
        begun = (await server.client.post("/v1/responses", json=ASKED)).json()
        while not server.engine.requests:
            await asyncio.sleep(0.01)
        stream = server.service.streams.get(begun["id"])
        deleted = await server.client.delete(f"/v1/responses/{begun['id']}")
        still_open = server.service.num_open
        await stream.ended()
        found = await server.client.get(f"/v1/responses/{begun['id']}")
        return deleted.status_code, still_open, found.status_code

    assert asyncio.run(run()) == (200, 0, 404)
    assert len(server.service.responses) == 0


@pytest.mark.parametrize("asked", [ASKED, {"input": "hi", "stream": True, "resume_window": 60}])
def test_the_events_go_with_the_response(server: FakeServer, asked: dict[str, Any]) -> None:
    async def run() -> None:
        reply = await server.client.post("/v1/responses", json=asked)
        name = reply.headers.get("x-stream-id") or reply.json()["id"]
        places = (f"/v1/responses/{name}?stream=true", f"/v1/streams/{name}")
        for place in places:
            assert "four" in (await server.client.get(place)).text
        assert (await server.client.delete(f"/v1/responses/{name}")).status_code == 200
        for place in places:
            gone = await server.client.get(place)
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "stream_not_found")

    asyncio.run(run())


def test_what_there_is_no_room_for_is_refused_at_once(server: FakeServer) -> None:
    """And nothing of it is remembered."""

    async def run(load: Load, streams: KeptStreams) -> list[int]:
        server.service.load, server.service.streams = load, streams
        statuses = []
        for _ in range(3):
            response = await server.client.post("/v1/responses", json=ASKED)
            statuses.append(response.status_code)
        assert len(server.service.responses) == 1 and server.service.load.open == 1
        while load.open:
            await asyncio.sleep(0.01)
        return statuses

    assert asyncio.run(run(Load(running=1, queue=0), KeptStreams())) == [200, 429, 429]
    assert server.service.load.open == 0
    server.service.responses = type(server.service.responses)()
    assert asyncio.run(run(Load(), KeptStreams(1))) == [200, 429, 429]
    assert server.service.load.open == 0


def test_an_endless_number_is_refused(server: FakeServer) -> None:
    reply = server.ask("/v1/responses", input="hi").json()

    async def listed(limit: str) -> int:
        place = f"/v1/responses/{reply['id']}/input_items?limit={limit}"
        return (await server.client.get(place)).status_code

    assert asyncio.run(listed("2")) == 200
    for limit in ("0", "101", "x", "1" * 5000):
        assert asyncio.run(listed(limit)) == 400


def test_log_probabilities_count_where_responses_are_kept(
    model_path: Path, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("word " * 50, add_special_tokens=False)

    def script(request: Request) -> list[list[Output]]:
        entry = TokenLogprobs(token_ids=[*range(100, 121)], logprobs=[-0.1] * 21, rank=1)
        outputs = [Output(request_id=request.id, index=0, token_ids=[id]) for id in ids]
        for output in outputs:
            output.logprobs = [entry]
        outputs[-1].finish_reason = FinishReason.LENGTH
        return [[output] for output in outputs]

    server = make(model_path, tokenizer, script)
    server.engine.pause = 0
    included = {"include": ["message.output_text.logprobs"], "top_logprobs": 20}
    reply = server.ask("/v1/responses", input="hi", max_output_tokens=60, **included)
    [stored] = [server.service.responses.get(reply.json()["id"])]
    assert stored.characters > len(reply.content)
    assert stored.conversation[-1]["content"][0]["logprobs"] == []
    assert len(reply.json()["output"][0]["content"][0]["logprobs"]) == len(ids)
