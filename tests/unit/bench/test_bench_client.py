"""The client against servers that cut their answers into pieces at awkward places."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from legato.bench.http_stream import Endpoint, exchange, fetch_json
from legato.bench.load import Load, Streamed, check_lengths, run_load, summary
from legato.errors import RequestError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Reply = Callable[[bytes], list[bytes]]


def event(data: object) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def answer_of(tokens: int, prompt_tokens: int = 3) -> list[bytes]:
    """As a server streams it: a token an event, then the usage, then the end."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    events = [event({"choices": [{"text": f" é{i}\n\n"}]}) for i in range(tokens)]
    last = event({"choices": [], "usage": usage})
    return [HEAD, *map(chunk, [*events, last, event(b"[DONE]")]), b"0\r\n\r\n"]


@asynccontextmanager
async def serving(reply: Reply, pause: float = 0.0) -> AsyncIterator[Endpoint]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        for piece in reply(await reader.readexactly(length)):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Endpoint(f"http://127.0.0.1:{port}")


def cut(pieces: list[bytes], seed: int) -> list[bytes]:
    """The same bytes, in pieces that know nothing of lines and chunks."""
    whole, places = b"".join(pieces), random.Random(seed)
    ends = sorted({0, len(whole), *(places.randrange(len(whole)) for _ in range(25))})
    return [whole[start:end] for start, end in zip(ends, ends[1:], strict=False)]


@pytest.mark.parametrize("seed", range(8))
async def test_events_survive_any_cut(seed: int) -> None:
    async with serving(lambda _: cut(answer_of(5), seed)) as endpoint:
        done = await exchange(endpoint, endpoint.message("POST", "/v1/completions", {}))
    streamed = Streamed.read(done)
    assert (streamed.prompt_tokens, streamed.output_tokens) == (3, 5)
    assert len(streamed.arrivals) == 5
    assert streamed.arrivals == sorted(streamed.arrivals)
    assert done.started < done.started + streamed.ttft <= done.ended


async def test_times_are_those_of_arrival() -> None:
    async with serving(lambda _: answer_of(4), pause=0.03) as endpoint:
        [done] = await run_load(endpoint, Load(output_len=4, concurrency=1), [[1, 2, 3]])
    streamed = Streamed.read(done)
    assert streamed.ttft >= 0.03
    assert 0.03 <= streamed.time_per_token < 0.3
    assert not check_lengths([streamed], 3, 4)
    figures = summary([streamed])
    assert figures["output_tokens_per_s"] == pytest.approx(4 / (done.ended - done.started))
    assert figures["inter_token_p50_ms"] >= 30


async def test_the_load_asks_for_an_exact_number_of_tokens() -> None:
    bodies: list[dict[str, object]] = []

    def reply(body: bytes) -> list[bytes]:
        bodies.append(json.loads(body))
        return answer_of(2)

    async with serving(reply) as endpoint:
        await run_load(endpoint, Load(output_len=2, concurrency=2), [[1], [2], [3]])
    assert sorted(str(body["prompt"]) for body in bodies) == ["[1]", "[2]", "[3]"]
    assert all((body["max_tokens"], body["ignore_eos"]) == (2, True) for body in bodies)
    assert "model" not in bodies[0]


async def test_concurrency_is_a_limit() -> None:
    async with serving(lambda _: answer_of(2), pause=0.002) as endpoint:
        exchanges = await run_load(endpoint, Load(output_len=2, concurrency=3), [[1]] * 9)
    spans = [(done.started, done.ended) for done in exchanges]
    at_once = [sum(s <= start < e for s, e in spans) for start, _ in spans]
    assert max(at_once) == 3


async def test_an_answer_of_the_wrong_length_is_told() -> None:
    async with serving(lambda _: answer_of(3)) as endpoint:
        [done] = await run_load(endpoint, Load(output_len=4, concurrency=1), [[1, 2, 3]])
    [complaint] = check_lengths([Streamed.read(done)], 3, 4)
    assert "3 prompt and 3 output tokens" in complaint


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope"], "404: nope"),
        ([HEAD, chunk(event({"error": "broken"}))], "broken"),
        (answer_of(4)[:3], "cut"),
        ([b""], "nothing"),
    ],
)
async def test_failures_are_told(pieces: list[bytes], words: str) -> None:
    async with serving(lambda _: pieces) as endpoint:
        [done] = await run_load(endpoint, Load(output_len=4, concurrency=1), [[1]])
    with pytest.raises(RequestError, match=words):
        Streamed.read(done)


async def test_nobody_listening() -> None:
    async with serving(lambda _: []) as endpoint:
        pass
    with pytest.raises(RequestError, match="no server at"):
        await fetch_json(endpoint, "GET", "/health")
    with pytest.raises(RequestError, match="not an http"):
        Endpoint("localhost:8000")
