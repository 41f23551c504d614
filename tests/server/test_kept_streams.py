"""Connections that break: the stream goes on behind the event that was seen last, for a bounded time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import openai
import pytest
from running_server import RunningServer
from test_lifecycle import running, wait_until

from legato.errors import RequestError
from legato.server import kept_streams
from legato.server.errors import StreamNotFoundError, TooManyRequestsError
from legato.server.kept_streams import KeptStreams

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me a story of a river."}],
    "max_tokens": 120,
    "ignore_eos": True,
    "temperature": 0.8,
    "seed": 3,
    "n": 2,
    "stream": True,
}


def frames(response: httpx.Response, most: int | None = None) -> list[tuple[int, str]]:
    """(id, data) of up to so many events."""
    found: list[tuple[int, str]] = []
    number = -1
    for line in response.iter_lines():
        if line.startswith("id: "):
            number = int(line.removeprefix("id: "))
        elif line.startswith("data: "):
            found.append((number, line.removeprefix("data: ")))
            if len(found) == most:
                break
    return found


def answers(events: list[tuple[int, str]]) -> dict[int, tuple[str, str | None]]:
    """Text and finish reason of each choice. How tokens are cut into events is a matter of load."""
    found: dict[int, tuple[str, str | None]] = {}
    for _, data in events:
        for choice in [] if data == "[DONE]" else json.loads(data)["choices"]:
            text, _ = found.get(choice["index"], ("", None))
            text += choice["delta"].get("content") or ""
            found[choice["index"]] = (text, choice["finish_reason"])
    return found


def test_a_broken_stream_goes_on(server: RunningServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=CHAT, timeout=60) as response:
        whole = frames(response)
    assert whole[0][0] == -1  # ids are for those who ask
    seen: list[tuple[int, str]] = []
    with httpx.stream("POST", url, json={**CHAT, "resume_window": 20}, timeout=60) as response:
        name = response.headers["x-stream-id"]
        seen += frames(response, 25)
    assert f'"{name}"' in seen[0][1]
    again = f"{server.url}/v1/streams/{name}"
    for count in (10, 60, None):  # it breaks again and again
        headers = {"last-event-id": str(seen[-1][0])}
        with httpx.stream("GET", again, headers=headers, timeout=60) as response:
            assert response.status_code == 200, response.read()
            seen += frames(response, count)
    assert [number for number, _ in seen] == list(range(len(seen)))
    assert answers(seen) == answers(whole) and seen[-1][1] == "[DONE]"
    with httpx.stream("GET", again, timeout=60) as response:  # complete, and still there
        assert frames(response) == seen
    assert httpx.delete(again).status_code == 200
    gone = httpx.get(again)
    assert gone.status_code == 404 and gone.json()["error"]["code"] == "stream_not_found"


def test_nobody_comes_back(server: RunningServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    body = {**CHAT, "max_tokens": 1900, "resume_window": 1}
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        name = response.headers["x-stream-id"]
        frames(response, 5)
        left = time.monotonic()
    wait_until(lambda: running(server) == 0)
    assert time.monotonic() - left > 0.9  # and its answer is not complete: that would be kept
    assert httpx.get(f"{server.url}/v1/streams/{name}").status_code == 404


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resume_window": -1}, "0 to 600"),
        ({"resume_window": 1e9}, "0 to 600"),
        ({"resume_window": 5, "stream": False}, "needs stream"),
    ],
)
def test_windows_have_limits(server: RunningServer, change: dict[str, Any], message: str) -> None:
    refused = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, **change})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "resume_window"
    assert message in refused.json()["error"]["message"]


def test_a_bad_last_event_id_is_named(server: RunningServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    body = {**CHAT, "max_tokens": 5, "resume_window": 5}
    name = httpx.post(url, json=body, timeout=60).headers["x-stream-id"]
    refused = httpx.get(f"{server.url}/v1/streams/{name}", headers={"last-event-id": "x"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "Last-Event-ID"


def test_a_response_in_the_background(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="smollm2", input="Count to ten.", background=True, max_output_tokens=200,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert made.status == "in_progress" and made.background
    with pytest.raises(openai.BadRequestError, match="in progress"):
        client.responses.create(model="smollm2", input="?", previous_response_id=made.id)
    deadline = time.monotonic() + 30
    while (found := client.responses.retrieve(made.id)).status == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found.status == "incomplete" and found.usage and found.usage.output_tokens == 200
    events = [*client.responses.retrieve(made.id, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    middle = len(events) // 2
    rest = [*client.responses.retrieve(made.id, stream=True, starting_after=middle)]
    assert rest == events[middle + 1 :]


def test_a_background_stream_goes_on_where_it_broke(client: openai.OpenAI) -> None:
    stream = client.responses.create(
        model="smollm2", input="Count to ten.", background=True, stream=True,
        max_output_tokens=150, extra_body={"ignore_eos": True},
    )  # fmt: skip
    seen = []
    for event in stream:
        seen.append(event)
        if len(seen) == 20:
            break
    stream.close()
    name = seen[0].response.id  # type: ignore[union-attr]
    time.sleep(0.3)
    seen += client.responses.retrieve(name, stream=True, starting_after=seen[-1].sequence_number)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == client.responses.retrieve(name).output_text


def test_a_background_response_is_cancelled(server: RunningServer, client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="smollm2", input="Count.", background=True, max_output_tokens=1900,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    wait_until(lambda: running(server) == 1)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    wait_until(lambda: running(server) == 0)


async def many(count: int, size: int) -> AsyncGenerator[bytes, None]:
    for _ in range(count):
        yield b"data: " + b"x" * size + b"\n\n"


async def endless() -> AsyncGenerator[bytes, None]:
    yield b"data: x\n\n"
    await asyncio.Event().wait()


def test_what_grows_or_is_read_makes_no_room() -> None:
    async def scenario() -> None:
        streams = KeptStreams(2)
        growing = streams.open("growing", endless(), 60)
        with pytest.raises(RequestError, match="in use"):
            streams.open("growing", many(1, 1), 60)
        await streams.open("read", many(1, 1), 60).ended()
        async with aclosing(streams.get("read").read()) as reading:
            await anext(reading)
            with pytest.raises(TooManyRequestsError):
                streams.open("other", many(1, 1), 60)
        streams.open("other", many(1, 1), 60)
        assert streams.get("growing") is growing
        growing.cancel()

    asyncio.run(scenario())


def test_a_stream_that_has_gone_takes_none_of_its_name_along() -> None:
    async def scenario() -> None:
        streams = KeptStreams()
        earlier = streams.open("a", many(1, 1), 60)
        await earlier.ended()
        later = streams.open("a", many(1, 1), 60)
        streams.drop(earlier)
        assert streams.get("a") is later

    asyncio.run(scenario())


def test_what_outlives_its_window_is_given_up_when_it_is_complete() -> None:
    """A response in the background grows without a reader for as long as it takes."""

    async def scenario() -> None:
        streams, ends = KeptStreams(), asyncio.Event()

        async def until_told() -> AsyncGenerator[bytes, None]:
            yield b"data: x\n\n"
            await ends.wait()

        background = streams.open("a", until_told(), 0.01, outlives=True)
        usual = streams.open("b", endless(), 0.02)
        for stream in (background, usual):
            async with aclosing(stream.read()) as reading:
                await anext(reading)
        while len(streams) == 2:  # b's time is over, and so was a's
            await asyncio.sleep(0.01)
        assert streams.get("a") is background
        ends.set()
        while len(streams):
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_buffers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_streams, "MAX_STREAM_BYTES", 10_000)
    monkeypatch.setattr(kept_streams, "MAX_BYTES", 35_000)

    async def scenario() -> None:
        streams = KeptStreams()
        for number in range(10):
            stream = streams.open(str(number), many(1000, 100), 60)
            await stream.ended()
            assert stream.bytes <= 10_000
        assert len(streams) == 3
        kept = [part async for part in streams.get("9").read(950)]
        assert b"".join(kept).count(b"id: ") == 49
        with pytest.raises(StreamNotFoundError, match="first that is has number"):
            await anext(streams.get("9").read(3))

    asyncio.run(scenario())
